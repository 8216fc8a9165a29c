from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest

from nexus_tasks.db.rows import AttemptRow, OverdueRun
from nexus_tasks.delivery.rescuer import DEATHS_IN_QUARANTINE, UNREAD_PATIENCE, LostRun, Waiting, death_message, judge
from nexus_tasks.states import AttemptState, DeliveryState, RunKind, RunState

TOKEN = UUID(int=7)
SECOND = timedelta(seconds=1)
ENDED = [state for state in AttemptState if state.ended]


def attempt(
    number: int, state: AttemptState, *, in_a_try: bool = False, deaths: int = 0, kind: RunKind = RunKind.NORMAL
) -> AttemptRow:
    """Attempt `number`, at destination `d<number>`."""
    return AttemptRow(
        id=number,
        run_id=1,
        record_id=1,
        delivery_id=number,
        destination=f"d{number}",
        state=state,
        run_state=RunState.OPEN,
        run_kind=kind,
        run_token=TOKEN,
        failures=0,
        deaths=deaths,
        tries=0,
        input_fingerprint=None,
        lease_token=TOKEN if in_a_try else None,
        lease_is_live=False,
        try_started_at=None,
        ended_at=None,
        error_message=None,
        result=None,
    )


def judged(
    *attempts: AttemptRow,
    queued: Collection[str] = (),
    unread: Collection[str] = (),
    kind: RunKind = RunKind.NORMAL,
    state: RunState = RunState.OPEN,
    overdue_for: timedelta = SECOND,
) -> LostRun | Waiting:
    run = OverdueRun(1, 1, kind, state, overdue_for, attempts)
    return judge(run, lambda row: row.destination in queued, lambda row: row.destination not in unread)


def lost(*attempts: AttemptRow, queued: Collection[str] = (), kind: RunKind = RunKind.NORMAL) -> LostRun:
    lost_run = judged(*attempts, queued=queued, kind=kind)
    assert isinstance(lost_run, LostRun)
    return lost_run


PLANNED = attempt(1, AttemptState.PLANNED)
IN_A_TRY = attempt(2, AttemptState.STARTED, in_a_try=True)
BETWEEN_TRIES = attempt(3, AttemptState.STARTED)


@pytest.mark.parametrize("kind", RunKind)
def test_a_run_whose_message_may_still_wait_is_left_alone(kind: RunKind) -> None:
    """One that runs alone too: its message may stand behind many, and one that came too early would never be tried."""
    for others in ((), (IN_A_TRY, BETWEEN_TRIES)):
        assert judged(PLANNED, *others, queued={"d1"}, kind=kind, overdue_for=10 * UNREAD_PATIENCE) is (
            Waiting.FOR_ITS_TURN
        )


@pytest.mark.parametrize("kind", RunKind)
def test_a_queue_that_nobody_reads_is_waited_for_some_minutes(kind: RunKind) -> None:
    judged_after = partial(judged, PLANNED, BETWEEN_TRIES, queued={"d1"}, unread={"d1"}, kind=kind)
    assert judged_after(overdue_for=UNREAD_PATIENCE - SECOND) is Waiting.FOR_A_READER
    assert judged_after(overdue_for=UNREAD_PATIENCE) == LostRun(cancelled=(BETWEEN_TRIES,), queued=(PLANNED,))


def test_one_queue_that_is_read_is_reason_enough_to_wait() -> None:
    other = attempt(4, AttemptState.PLANNED)
    assert (
        judged(PLANNED, other, queued={"d1", "d4"}, unread={"d1"}, overdue_for=UNREAD_PATIENCE) is Waiting.FOR_ITS_TURN
    )


def test_nobody_waits_for_the_message_of_a_delivery_that_was_abandoned() -> None:
    abandoned = replace(PLANNED, delivery_state=DeliveryState.FAILED)
    assert judged(abandoned, BETWEEN_TRIES, queued={"d1"}) == LostRun(cancelled=(BETWEEN_TRIES,), queued=(abandoned,))


def test_a_message_of_a_lost_run_keeps_its_place_until_it_is_gone() -> None:
    assert judged(PLANNED, queued={"d1"}, state=RunState.LOST) == LostRun(queued=(PLANNED,))
    assert judged(PLANNED, state=RunState.LOST) == LostRun(cancelled=(PLANNED,))


def test_a_message_that_waits_in_another_queue_does_not_count() -> None:
    assert lost(PLANNED, queued={"d2", "d3"}).cancelled == (PLANNED,)


def test_a_queue_says_nothing_about_an_attempt_that_was_taken_from_it() -> None:
    assert lost(IN_A_TRY, BETWEEN_TRIES, queued={"d2", "d3"}) == LostRun(
        expired=((IN_A_TRY, None),), cancelled=(BETWEEN_TRIES,)
    )


def test_what_was_in_a_try_has_expired_and_the_rest_is_cancelled() -> None:
    done = attempt(4, AttemptState.SUCCEEDED)
    lost_run = lost(PLANNED, IN_A_TRY, BETWEEN_TRIES, done)
    assert lost_run == LostRun(expired=((IN_A_TRY, None),), cancelled=(PLANNED, BETWEEN_TRIES))


@pytest.mark.parametrize("state", ENDED)
def test_a_run_whose_attempts_have_all_ended_has_lost_nothing_but_its_finalize(state: AttemptState) -> None:
    assert judged(attempt(1, state), attempt(2, state), queued={"d1"}) == LostRun(expired=(), cancelled=())


@pytest.mark.parametrize(
    ("kind", "deaths_before", "fails"),
    [
        (RunKind.NORMAL, 0, False),
        (RunKind.NORMAL, 1, False),
        (RunKind.NORMAL, 9, False),  # something else in the run may have killed the worker
        (RunKind.PROBE, 3, False),
        (RunKind.PROBE, 4, True),  # a probe is a run of one delivery too
        (RunKind.QUARANTINE, 2, False),
        (RunKind.QUARANTINE, 3, False),
        (RunKind.QUARANTINE, 4, True),
        (RunKind.QUARANTINE, 9, True),
    ],
)
def test_a_delivery_fails_by_its_third_death_alone_and_not_before(
    kind: RunKind, deaths_before: int, *, fails: bool
) -> None:
    this = attempt(2, AttemptState.STARTED, in_a_try=True, deaths=deaths_before, kind=kind)
    message = death_message(this, kind)
    assert (message is not None) is fails
    assert lost(this, kind=kind).expired == ((this, message),)


def test_the_message_says_how_often_where_and_what_to_do() -> None:
    message = death_message(attempt(2, AttemptState.STARTED, in_a_try=True, deaths=4), RunKind.QUARANTINE)
    assert message is not None
    assert "died 5 times" in message
    assert f"{DEATHS_IN_QUARANTINE} times with nothing else to do" in message
    assert "d2" in message
    assert "nexus-tasks retry" in message
    assert "\n" not in message
