from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.db.rows import Breaker
from nexus_tasks.delivery.circuit_breaker import AttemptFacts, BreakerPolicy, after_answer, after_failure

NOW = datetime(2025, 1, 27, 12, tzinfo=UTC)
POLICY = BreakerPolicy(failures=5, first=30, longest=600)


def an_attempt(record_id: int = 1, *, seconds_ago: float = 1, probe: bool = False) -> AttemptFacts:
    return AttemptFacts(record_id, NOW - timedelta(seconds=seconds_ago), probe)


def failed(
    breaker: Breaker, attempt: AttemptFacts, *, at_once: bool = False, retry_after: float = 0, now: datetime = NOW
) -> Breaker:
    return after_failure(breaker, attempt, now, POLICY, reason="away", at_once=at_once, retry_after=retry_after)


def after_failures_of(*record_ids: int) -> Breaker:
    breaker = Breaker()
    for record_id in record_ids:
        breaker = failed(breaker, an_attempt(record_id))
    return breaker


OPEN = after_failures_of(1, 2, 3, 4, 5)
PAUSED = Breaker(paused=True, reason="paused by an operator")


@pytest.mark.parametrize(
    ("record_ids", "opens"),
    [
        ((1, 2, 3, 4), False),
        ((1, 2, 3, 4, 5), True),
        ((1, 1, 1, 1, 1), False),
        ((1, 2, 3, 4, 4), False),
        ((1, 2, 1, 2, 1, 2, 1, 2, 3, 4), False),
        ((1, 2, 1, 2, 1, 2, 1, 2, 3, 4, 5), True),
    ],
)
def test_five_distinct_records_failing_in_a_row_open_the_circuit(record_ids: tuple[int, ...], *, opens: bool) -> None:
    breaker = after_failures_of(*record_ids)
    assert breaker.closed is not opens
    assert (breaker.opened_at, breaker.open_until) == ((NOW, NOW + timedelta(seconds=30)) if opens else (None, None))


def test_the_reason_of_an_open_circuit_is_the_last_failure() -> None:
    assert OPEN.reason == "away"


def test_an_answer_in_between_begins_the_count_again() -> None:
    breaker = after_answer(after_failures_of(1, 2, 3, 4), an_attempt(9))
    for record_id in (5, 6, 7, 8):
        breaker = failed(breaker, an_attempt(record_id))
    assert breaker.closed
    assert not failed(breaker, an_attempt(9)).closed


def test_failures_and_answers_of_attempts_beside_the_probe_change_nothing_while_it_is_open() -> None:
    for record_id in (1, 6):
        assert failed(OPEN, an_attempt(record_id)) == OPEN
        assert failed(OPEN, an_attempt(record_id), at_once=True) == OPEN
        assert failed(OPEN, an_attempt(record_id), retry_after=300) == OPEN
        assert after_answer(OPEN, an_attempt(record_id)) == OPEN


def test_failures_of_attempts_that_began_before_it_opened_change_nothing_after_it_closed_either() -> None:
    """Calls that hang for a minute end after it was open for half a minute: they say nothing new."""
    later = NOW + timedelta(seconds=31)
    breaker = after_answer(OPEN, AttemptFacts(1, later, probe=True))
    for record_id in (6, 7, 8, 9, 10):
        breaker = failed(breaker, an_attempt(record_id, seconds_ago=5), now=later)
    assert breaker.closed


def test_a_probe_that_succeeds_closes_the_circuit() -> None:
    assert after_answer(OPEN, an_attempt(probe=True)) == Breaker()


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_the_longest() -> None:
    breaker, open_for = OPEN, []
    for _ in range(7):
        breaker = failed(breaker, an_attempt(probe=True))
        assert breaker.open_until is not None
        open_for.append((breaker.open_until - NOW).total_seconds())
    assert open_for == [60, 120, 240, 480, 600, 600, 600]


def test_after_a_circuit_has_closed_it_opens_for_a_short_time_again() -> None:
    breaker = failed(failed(OPEN, an_attempt(probe=True)), an_attempt(probe=True))
    breaker = after_answer(breaker, an_attempt(probe=True))
    for record_id in range(5):
        breaker = failed(breaker, an_attempt(record_id))
    assert breaker.open_until == NOW + timedelta(seconds=30)


def test_a_configuration_failure_opens_at_once() -> None:
    breaker = failed(Breaker(), an_attempt(), at_once=True)
    assert not breaker.closed
    assert breaker.open_until == NOW + timedelta(seconds=30)


@pytest.mark.parametrize(("asked_for", "seconds"), [(31, 31), (300, 300), (86_400, 86_400), (20, 30)])
def test_a_long_retry_after_opens_at_once_for_as_long_as_was_asked_for(asked_for: float, seconds: float) -> None:
    breaker = failed(Breaker(), an_attempt(), retry_after=asked_for)
    assert breaker.open_until == NOW + timedelta(seconds=seconds)


def test_a_long_retry_after_does_not_make_it_open_longer_later() -> None:
    breaker = failed(failed(Breaker(), an_attempt(), retry_after=3600), an_attempt(probe=True))
    assert breaker.open_until == NOW + timedelta(seconds=60)


def test_a_probe_asks_for_no_second_one_until_it_is_half_open_again() -> None:
    assert not OPEN.half_open(NOW + timedelta(seconds=29))
    assert OPEN.half_open(NOW + timedelta(seconds=30))
    again = failed(OPEN, an_attempt(probe=True))
    assert not again.half_open(NOW + timedelta(seconds=59))


def test_a_circuit_is_not_closed_before_a_probe_has_succeeded() -> None:
    assert not OPEN.closed
    assert not replace(OPEN, open_until=NOW - timedelta(days=1)).closed


def test_a_closed_circuit_is_not_half_open() -> None:
    assert not Breaker().half_open(NOW)


@pytest.mark.parametrize("probe", [False, True])
def test_what_an_operator_pauses_stays_paused_whatever_is_answered(*, probe: bool) -> None:
    assert after_answer(PAUSED, an_attempt(probe=probe)).paused
    assert failed(PAUSED, an_attempt(probe=probe), at_once=True).paused
    assert not after_answer(PAUSED, an_attempt(probe=probe)).closed


def test_a_paused_destination_is_not_half_open() -> None:
    assert not replace(OPEN, paused=True).half_open(NOW + timedelta(days=1))


def test_a_paused_destination_still_says_why_after_an_answer_that_was_on_its_way() -> None:
    assert after_answer(PAUSED, an_attempt()).reason == "paused by an operator"


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.booleans()), max_size=30))
def test_a_circuit_is_open_for_a_time_that_is_over_some_day(steps: list[tuple[bool, int, bool]]) -> None:
    breaker = Breaker()
    for answered, record_id, probe in steps:
        attempt = an_attempt(record_id, probe=probe)
        breaker = after_answer(breaker, attempt) if answered else failed(breaker, attempt)
        assert (breaker.opened_at is None) == (breaker.open_until is None)
        assert len(breaker.failing_records) <= POLICY.failures
        assert breaker.open_until is None or breaker.open_until - NOW <= timedelta(seconds=POLICY.longest)
