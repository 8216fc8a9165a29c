"""Decides when a destination is left alone: pure; stored in its row, asked by the planner and by every attempt.

After some records in a row have failed the circuit opens; at once for a configuration failure or a long Retry-After.
When its time is over it is half-open: one probe goes out, and a probe that fails opens it for twice as long.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from nexus_tasks.db.rows import Breaker


@dataclass(frozen=True)
class BreakerPolicy:
    """`failures` records failing in a row open the circuit; how long it stays open, in seconds."""

    failures: int
    first: float
    longest: float


@dataclass(frozen=True)
class AttemptFacts:
    """What is known of an attempt when it ends: when it began, and whether it is the probe of a half-open circuit."""

    record_id: int
    started_at: datetime
    probe: bool


def after_answer(breaker: Breaker, attempt: AttemptFacts) -> Breaker:
    """The destination has answered: the record arrived, or was refused for good."""
    if breaker.opened_at is not None and not attempt.probe:
        return breaker  # only the probe closes it
    recovered_at = attempt.started_at if breaker.opened_at is not None else breaker.recovered_at
    return Breaker(paused=breaker.paused, reason=breaker.reason if breaker.paused else None, recovered_at=recovered_at)


def after_failure(
    breaker: Breaker,
    attempt: AttemptFacts,
    now: datetime,
    policy: BreakerPolicy,
    *,
    reason: str,
    at_once: bool = False,
    retry_after: float = 0,
) -> Breaker:
    """An attempt has failed in a way that a later one, or corrected settings, can overcome.

    `at_once` opens without counting: no record would fare better. `retry_after`: seconds that the service asked for.
    """
    if breaker.opened_at is not None and not attempt.probe:
        return breaker  # it began before the circuit opened, or beside it: nothing new
    if breaker.recovered_at is not None and attempt.started_at < breaker.recovered_at:
        return breaker  # it began before the circuit closed again
    failing = tuple(dict.fromkeys((*breaker.failing_records, attempt.record_id)))[-policy.failures :]
    if not (attempt.probe or at_once or retry_after or len(failing) >= policy.failures):
        return replace(breaker, failing_records=failing, reason=reason)
    seconds = min(policy.longest, 2 * breaker.open_seconds) if breaker.open_seconds else policy.first
    return replace(
        breaker,
        failing_records=failing,
        opened_at=now,
        open_until=now + timedelta(seconds=max(seconds, retry_after)),
        open_seconds=seconds,
        reason=reason,
    )
