from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.db.rows import Breaker
from nexus_tasks.delivery.circuit_breaker import PausePolicy, TryFacts, after_answer, after_failure

NOW = datetime(2025, 1, 27, 12, tzinfo=UTC)
POLICY = PausePolicy(after=5, first=30, longest=600)


def a_try(record_id: int = 1, *, seconds_ago: float = 1, probe: bool = False) -> TryFacts:
    return TryFacts(record_id, NOW - timedelta(seconds=seconds_ago), probe)


def failed(
    health: Health, this: TryFacts, *, at_once: bool = False, retry_after: float = 0, now: datetime = NOW
) -> Health:
    return after_failure(health, this, now, POLICY, reason="away", at_once=at_once, retry_after=retry_after)


def after_failures_of(*record_ids: int) -> Health:
    health = Health()
    for record_id in record_ids:
        health = failed(health, a_try(record_id))
    return health


PAUSED = after_failures_of(1, 2, 3, 4, 5)
HELD = Health(held=True, reason="paused by an operator")


@pytest.mark.parametrize(
    ("record_ids", "pauses"),
    [
        ((1, 2, 3, 4), False),
        ((1, 2, 3, 4, 5), True),
        ((1, 1, 1, 1, 1), False),
        ((1, 2, 3, 4, 4), False),
        ((1, 2, 1, 2, 1, 2, 1, 2, 3, 4), False),
        ((1, 2, 1, 2, 1, 2, 1, 2, 3, 4, 5), True),
    ],
)
def test_five_distinct_records_failing_in_a_row_pause_a_destination(
    record_ids: tuple[int, ...], *, pauses: bool
) -> None:
    health = after_failures_of(*record_ids)
    assert breaker.closed is not pauses
    assert (health.paused_at, health.not_before) == ((NOW, NOW + timedelta(seconds=30)) if pauses else (None, None))


def test_the_reason_of_a_pause_is_the_last_failure() -> None:
    assert PAUSED.reason == "away"


def test_an_answer_in_between_begins_the_count_again() -> None:
    health = after_answer(after_failures_of(1, 2, 3, 4), a_try(9))
    for record_id in (5, 6, 7, 8):
        health = failed(health, a_try(record_id))
    assert breaker.closed
    assert not failed(health, a_try(9)).well


def test_failures_and_answers_of_tries_beside_the_probe_change_nothing_while_it_is_paused() -> None:
    for record_id in (1, 6):
        assert failed(PAUSED, a_try(record_id)) == PAUSED
        assert failed(PAUSED, a_try(record_id), at_once=True) == PAUSED
        assert failed(PAUSED, a_try(record_id), retry_after=300) == PAUSED
        assert after_answer(PAUSED, a_try(record_id)) == PAUSED


def test_failures_of_tries_that_began_before_the_pause_change_nothing_after_it_either() -> None:
    """Calls that hang for a minute end after a pause of half a minute: they say nothing new about the destination."""
    later = NOW + timedelta(seconds=31)
    health = after_answer(PAUSED, TryFacts(1, later, probe=True))
    for record_id in (6, 7, 8, 9, 10):
        health = failed(health, a_try(record_id, seconds_ago=5), now=later)
    assert breaker.closed


def test_a_probe_that_succeeds_lifts_the_pause() -> None:
    assert after_answer(PAUSED, a_try(probe=True)) == Health()


def test_a_probe_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    health, pauses = PAUSED, []
    for _ in range(7):
        health = failed(health, a_try(probe=True))
        assert health.not_before is not None
        pauses.append((health.not_before - NOW).total_seconds())
    assert pauses == [60, 120, 240, 480, 600, 600, 600]


def test_after_a_pause_was_lifted_the_next_one_is_short_again() -> None:
    health = failed(failed(PAUSED, a_try(probe=True)), a_try(probe=True))
    health = after_answer(health, a_try(probe=True))
    for record_id in range(5):
        health = failed(health, a_try(record_id))
    assert health.not_before == NOW + timedelta(seconds=30)


def test_a_configuration_failure_pauses_at_once() -> None:
    health = failed(Health(), a_try(), at_once=True)
    assert not breaker.closed
    assert health.not_before == NOW + timedelta(seconds=30)


@pytest.mark.parametrize(("asked_for", "seconds"), [(31, 31), (300, 300), (86_400, 86_400), (20, 30)])
def test_a_long_retry_after_pauses_at_once_for_as_long_as_was_asked_for(asked_for: float, seconds: float) -> None:
    health = failed(Health(), a_try(), retry_after=asked_for)
    assert health.not_before == NOW + timedelta(seconds=seconds)


def test_a_long_retry_after_does_not_make_later_pauses_longer() -> None:
    health = failed(failed(Health(), a_try(), retry_after=3600), a_try(probe=True))
    assert health.not_before == NOW + timedelta(seconds=60)


def test_a_probe_asks_for_no_second_one_until_its_pause_is_over() -> None:
    assert not PAUSED.wants_probe(NOW + timedelta(seconds=29))
    assert PAUSED.wants_probe(NOW + timedelta(seconds=30))
    again = failed(PAUSED, a_try(probe=True))
    assert not again.wants_probe(NOW + timedelta(seconds=59))


def test_a_pause_is_not_over_before_a_probe_has_succeeded() -> None:
    assert not PAUSED.well
    assert not replace(PAUSED, not_before=NOW - timedelta(days=1)).well


def test_a_well_destination_wants_no_probe() -> None:
    assert not Health().wants_probe(NOW)


@pytest.mark.parametrize("probe", [False, True])
def test_what_an_operator_holds_stays_held_whatever_is_answered(*, probe: bool) -> None:
    assert after_answer(HELD, a_try(probe=probe)).held
    assert failed(HELD, a_try(probe=probe), at_once=True).held
    assert not after_answer(HELD, a_try(probe=probe)).well


def test_a_held_destination_wants_no_probe() -> None:
    assert not replace(PAUSED, held=True).wants_probe(NOW + timedelta(days=1))


def test_a_held_destination_still_says_why_after_an_answer_that_was_on_its_way() -> None:
    assert after_answer(HELD, a_try()).reason == "paused by an operator"


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.booleans()), max_size=30))
def test_a_destination_is_paused_for_a_time_that_is_over_some_day(steps: list[tuple[bool, int, bool]]) -> None:
    health = Health()
    for answered, record_id, probe in steps:
        this = a_try(record_id, probe=probe)
        health = after_answer(health, this) if answered else failed(health, this)
        assert (health.paused_at is None) == (health.not_before is None)
        assert len(health.failing_records) <= POLICY.after
        assert health.not_before is None or health.not_before - NOW <= timedelta(seconds=POLICY.longest)
