"""Decides when a destination is left alone: pure; written by the attempts in its row, asked by every try and by plan.

This is the circuit breaker, and the place for a long Retry-After. After some records in a row have failed the
destination pauses; when the pause is over one probe goes out; a probe that fails doubles the pause.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from nexus_tasks.db.rows import Health


@dataclass(frozen=True)
class PausePolicy:
    """`after` records failing in a row; the pauses in seconds."""

    after: int
    first: float
    longest: float


@dataclass(frozen=True)
class TryFacts:
    """What is known of a try when it ends: when it began, and whether it is the probe of a paused destination."""

    record_id: int
    started_at: datetime
    probe: bool


def after_answer(health: Health, this: TryFacts) -> Health:
    """The destination has answered: the record arrived, or was refused for good."""
    if health.paused_at is not None and not this.probe:
        return health  # only the probe lifts a pause
    well_since = this.started_at if health.paused_at is not None else health.well_since
    return Health(held=health.held, reason=health.reason if health.held else None, well_since=well_since)


def after_failure(
    health: Health,
    this: TryFacts,
    now: datetime,
    policy: PausePolicy,
    *,
    reason: str,
    at_once: bool = False,
    retry_after: float = 0,
) -> Health:
    """A try has failed in a way that time, or somebody, can mend.

    `at_once` pauses without counting: no record would fare better. `retry_after`: seconds that the service asked for.
    """
    if health.paused_at is not None and not this.probe:
        return health  # it began before the pause, or beside it: nothing new
    if health.well_since is not None and this.started_at < health.well_since:
        return health  # it began before the pause that is over by now
    failing = tuple(dict.fromkeys((*health.failing_records, this.record_id)))[-policy.after :]
    if not (this.probe or at_once or retry_after or len(failing) >= policy.after):
        return replace(health, failing_records=failing, reason=reason)
    seconds = min(policy.longest, 2 * health.pause_seconds) if health.pause_seconds else policy.first
    pause = timedelta(seconds=max(seconds, retry_after))
    return replace(
        health,
        failing_records=failing,
        paused_at=now,
        not_before=now + pause,
        pause_seconds=seconds,
        reason=reason,
    )
