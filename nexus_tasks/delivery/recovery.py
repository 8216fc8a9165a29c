"""Decides what has become of an overdue run: pure; dispatch asks it before it plans.

A run carries the time by which its next event is expected. Past it the run is lost, and what it was for is due again,
unless its message may still be waiting in a queue.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nexus_tasks.db.rows import ALONE_AFTER, AttemptRow, OverdueRun
from nexus_tasks.delivery.retry import MAY_EXIST
from nexus_tasks.states import AttemptState, RunKind

DEATHS_ALONE = 3  # deaths in a run of its own after which a delivery fails


@dataclass(frozen=True)
class Loss:
    """What to write for a lost run.

    `died`: attempts in whose try the worker died, with why the delivery fails by it, or None. `unsent`: attempts whose
    message is gone.
    """

    died: tuple[tuple[AttemptRow, str | None], ...]
    unsent: tuple[AttemptRow, ...]


def judge(run: OverdueRun, may_be_queued: Callable[[AttemptRow], bool]) -> Loss | None:
    """The loss, or None when the run is to be left alone for now."""
    going_on = [attempt for attempt in run.attempts if not attempt.state.ended]
    planned = [attempt for attempt in going_on if attempt.state is AttemptState.PLANNED]
    if any(may_be_queued(attempt) for attempt in planned):
        return None
    dead = [attempt for attempt in going_on if attempt.state is AttemptState.STARTED and attempt.lease_token]
    return Loss(
        died=tuple((attempt, death_message(attempt, run.kind)) for attempt in dead),
        unsent=tuple(attempt for attempt in going_on if attempt not in dead),  # planned, or between two tries
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
