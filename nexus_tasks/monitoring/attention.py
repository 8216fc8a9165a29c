"""Finds what an operator should look at: `nexus-tasks status` says it, `status --check` turns it into an exit status.

A queue that no worker reads, a beat that is silent, a clock that is off, a folder that not every worker sees, a
destination that takes nothing, deliveries and builds that have failed, a database of another version. All of it is read
from PostgreSQL, where the workers say what they see (`presence`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nexus_tasks.db import revisions, workers
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.troubles import Troubles, troubles
from nexus_tasks.db.workers import Waiting, WorkerRow
from nexus_tasks.deployment import Deployment
from nexus_tasks.monitoring.wellbeing import unwell
from nexus_tasks.queues import BUILDS_QUEUE, EXPORT, EXPORTS_QUEUE

CLOCK_TOLERANCE_S = 5
MISSED_DISPATCHES = 10  # of beat, after which it counts as silent
LEAST_PATIENCE_S = 30  # with beat, where it dispatches so often that a busy worker misses ten
NAMED_AT_MOST = 5  # workers in one sentence


@dataclass(frozen=True)
class Finding:
    """One thing to look at. `about`: database, queue, beat, clock, folder, destination, delivery, build."""

    about: str
    message: str


def database_of_another_version(deployment: Deployment) -> Finding | None:
    """Whether the tables are those of an older or newer version; queries on them may fail. Raises `DatabaseError`."""
    with transaction(deployment.engine) as connection:
        current = revisions.current(connection)
    known = revisions.known()
    if current in {None, known[-1]}:  # without any tables, every query says so itself
        return None
    if current in known:
        return Finding(
            "database",
            f"The database is at revision {current}, this version needs {known[-1]}: run `nexus-tasks db upgrade`.",
        )
    return Finding(
        "database",
        f"The database is at revision {current}, which this version does not know: install the version here that "
        "the database was upgraded with.",
    )


def attention(deployment: Deployment) -> list[Finding]:
    """What is to be looked at now, the most pressing first. Raises `DatabaseError`."""
    with transaction(deployment.engine) as connection:
        running = workers.running(connection)
        waiting = workers.waiting(connection)
        silence = workers.silence_of_beat(connection)
        found = troubles(connection)
    patience = max(LEAST_PATIENCE_S, MISSED_DISPATCHES * deployment.settings.NX_DISPATCH_INTERVAL)
    return [
        *_unread_queues(running, waiting),
        *_silent_beat(running, silence, patience),
        *_wrong_clocks(running),
        *_separate_folders(running),
        *(Finding("destination", sentence) for sentence in unwell(deployment)),
        *_troubled(found),
    ]


def _unread_queues(running: Sequence[WorkerRow], waiting: Waiting) -> Iterator[Finding]:
    wanted = {EXPORT + name: f"{count} deliveries wait" for name, count in waiting.deliveries.items()}
    if waiting.builds:
        wanted[BUILDS_QUEUE] = f"{waiting.builds} builds wait"
    if waiting.anything:
        wanted[EXPORTS_QUEUE] = "nothing is planned or settled"
    read = {queue for worker in running for queue in worker.queues}
    unread = {queue: what for queue, what in wanted.items() if queue not in read}
    if unread and not running:
        yield Finding("queue", f"No worker runs ({', '.join(unread.values())}): start `celery -A nexus_tasks worker`.")
        return
    for queue, what in unread.items():
        yield Finding(
            "queue",
            f"No worker reads the queue {queue} ({what}): start one with `celery -A nexus_tasks worker -Q {queue}`.",
        )


def _silent_beat(running: Sequence[WorkerRow], silence: float | None, patience: float) -> Iterator[Finding]:
    """Where nobody reads the queue of its messages, nothing is known of beat."""
    if not any(EXPORTS_QUEUE in worker.queues for worker in running):
        return
    if silence is None or silence > patience:
        since = "so far" if silence is None else f"for {_span(silence)}"
        yield Finding(
            "beat",
            f"Beat has asked for no dispatch {since}: start `celery -A nexus_tasks beat`, once. If it runs, the "
            f"workers of the queue {EXPORTS_QUEUE} are too few.",
        )


def _wrong_clocks(running: Sequence[WorkerRow]) -> Iterator[Finding]:
    for worker in running:
        offset = worker.clock_offset_s
        side = "ahead of" if offset > 0 else "behind"
        if abs(offset) > CLOCK_TOLERANCE_S:
            yield Finding(
                "clock",
                f"The clock of the worker {worker.name} is {_span(abs(offset))} {side} PostgreSQL's: "
                "set both by a time server (NTP).",
            )


def _separate_folders(running: Sequence[WorkerRow]) -> Iterator[Finding]:
    for setting in sorted({setting for worker in running for setting in worker.stores}):
        seen = defaultdict(list)
        for worker in running:
            if setting in worker.stores:
                seen[worker.stores[setting]].append(worker.name)
        without = seen.pop("", [])
        if without:
            yield Finding(
                "folder",
                f"{_named(without)} cannot use the folder of {setting} that the others see: mount it there, writable.",
            )
        if len(seen) > 1:
            groups = sorted(seen.values(), key=len, reverse=True)
            yield Finding(
                "folder",
                f"{_named(groups[0])} and {_named(groups[1])} see different folders by {setting}: it must be one, "
                "shared by all workers.",
            )


def _troubled(found: Troubles) -> Iterator[Finding]:
    for destination, count in Counter(delivery.destination for delivery in found.failed).items():
        yield Finding(
            "delivery",
            f"{count} deliveries to {destination} have failed (`nexus-tasks status --failed` lists them): mend what is "
            f"wrong, then `nexus-tasks retry --failed --destination {destination}`; or give them up with "
            "`nexus-tasks abandon`.",
        )
    for destination, count in Counter(delivery.destination for delivery in found.long_waiting).items():
        yield Finding(
            "delivery",
            f"{count} deliveries to {destination} have been failing for more than a day and are tried again "
            "(`nexus-tasks status --failed` lists them): see what it answers.",
        )
    if found.not_built:
        yield Finding(
            "build",
            f"{len(found.not_built)} sessions could not be built (`nexus-tasks status --failed` lists them): mend what "
            "is wrong, then `nexus-tasks build --rebuild SESSION`; or give them up with `nexus-tasks abandon SESSION`.",
        )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more


def _span(seconds: float) -> str:
    if seconds < 2 * 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.0f} h"
