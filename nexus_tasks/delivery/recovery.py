"""Decides what has become of an overdue run: pure; dispatch asks it before it plans.

A run carries the time by which its next event is expected. Past it the run is lost, and what it was for is due again,
unless its message may still be waiting in a queue that workers read. One whose message lies in a queue that nobody
reads is lost some minutes later, so that its other deliveries are settled. The message keeps its place in the window
then: into such a queue no more is sent than the window allows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from nexus_tasks.db.rows import ALONE_AFTER, AttemptRow, OverdueRun
from nexus_tasks.delivery.retry import MAY_EXIST
from nexus_tasks.states import AttemptState, RunKind, RunState

DEATHS_ALONE = 3  # deaths in a run of its own after which a delivery fails
UNREAD_PATIENCE = timedelta(minutes=10)  # for a worker that is being restarted, or was late to start


class Waits(Enum):
    """Why a run is left alone for now."""

    FOR_ITS_TURN = "workers read the queue that its message may be in"
    FOR_A_READER = "no worker reads that queue, but one may come back"


@dataclass(frozen=True)
class Loss:
    """What to write for a lost run.

    `died`: attempts in whose try the worker died, with why the delivery fails by it, or None. `unsent`: attempts whose
    message is gone. `queued`: attempts that stay planned, because their message may still lie in its queue.
    """

    died: tuple[tuple[AttemptRow, str | None], ...] = ()
    unsent: tuple[AttemptRow, ...] = ()
    queued: tuple[AttemptRow, ...] = ()


def judge(
    run: OverdueRun, may_be_queued: Callable[[AttemptRow], bool], is_read: Callable[[AttemptRow], bool]
) -> Loss | Waits:
    """The loss, or why the run is left alone for now.

    `is_read` says of an attempt whether a worker reads the queue of its destination. Nobody waits for the message of a
    delivery that was given up meanwhile.
    """
    going_on = [attempt for attempt in run.attempts if not attempt.state.ended]
    queued = [attempt for attempt in going_on if attempt.state is AttemptState.PLANNED and may_be_queued(attempt)]
    awaited = [attempt for attempt in queued if not attempt.delivery_state.settled]
    if awaited and run.state is RunState.OPEN:
        if any(is_read(attempt) for attempt in awaited):
            return Waits.FOR_ITS_TURN
        if run.overdue_for < UNREAD_PATIENCE:
            return Waits.FOR_A_READER
    dead = [attempt for attempt in going_on if attempt.state is AttemptState.STARTED and attempt.lease_token]
    return Loss(
        died=tuple((attempt, death_message(attempt, run.kind)) for attempt in dead),
        unsent=tuple(attempt for attempt in going_on if attempt not in dead and attempt not in queued),
        queued=tuple(queued),
    )


def death_message(attempt: AttemptRow, kind: RunKind) -> str | None:
    """Why the delivery fails by this death; None while it is tried again."""
    deaths = attempt.deaths + 1
    if kind is RunKind.NORMAL or deaths < ALONE_AFTER + DEATHS_ALONE:
        return None
    may_exist = f" {MAY_EXIST}" if attempt.unresolved else ""
    return (
        f"The worker died {deaths} times while it exported this record to {attempt.destination}, "
        f"{DEATHS_ALONE} times with nothing else to do: look at its log, then `nexus-tasks retry`.{may_exist}"
    )
