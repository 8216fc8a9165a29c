from collections.abc import Collection
from uuid import UUID

import pytest

from nexus_tasks.db.rows import AttemptRow, OverdueRun
from nexus_tasks.delivery.recovery import DEATHS_ALONE, Loss, death_message, judge
from nexus_tasks.states import AttemptState, RunKind, RunState

TOKEN = UUID(int=7)
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
        digest=None,
        lease_token=TOKEN if in_a_try else None,
        lease_is_live=False,
        try_started_at=None,
        error_message=None,
        result=None,
    )


def judged(*attempts: AttemptRow, queued: Collection[str] = (), kind: RunKind = RunKind.NORMAL) -> Loss | None:
    return judge(OverdueRun(1, 1, kind, attempts), lambda row: row.destination in queued)


def lost(*attempts: AttemptRow, queued: Collection[str] = (), kind: RunKind = RunKind.NORMAL) -> Loss:
    loss = judged(*attempts, queued=queued, kind=kind)
    assert loss is not None
    return loss


PLANNED = attempt(1, AttemptState.PLANNED)
IN_A_TRY = attempt(2, AttemptState.STARTED, in_a_try=True)
BETWEEN_TRIES = attempt(3, AttemptState.STARTED)


def test_a_run_whose_message_may_still_wait_is_left_alone() -> None:
    assert judged(PLANNED, queued={"d1"}) is None
    assert judged(PLANNED, IN_A_TRY, BETWEEN_TRIES, queued={"d1"}) is None


def test_a_message_that_waits_in_another_queue_does_not_count() -> None:
    assert lost(PLANNED, queued={"d2", "d3"}).unsent == (PLANNED,)


def test_a_queue_says_nothing_about_an_attempt_that_was_taken_from_it() -> None:
    assert lost(IN_A_TRY, BETWEEN_TRIES, queued={"d2", "d3"}) == Loss(died=((IN_A_TRY, None),), unsent=(BETWEEN_TRIES,))


def test_what_was_in_a_try_has_died_and_the_rest_was_not_sent() -> None:
    done = attempt(4, AttemptState.SUCCEEDED)
    loss = lost(PLANNED, IN_A_TRY, BETWEEN_TRIES, done)
    assert loss == Loss(died=((IN_A_TRY, None),), unsent=(PLANNED, BETWEEN_TRIES))


@pytest.mark.parametrize("state", ENDED)
def test_a_run_whose_attempts_have_all_ended_has_lost_nothing_but_its_finalize(state: AttemptState) -> None:
    assert judged(attempt(1, state), attempt(2, state), queued={"d1"}) == Loss(died=(), unsent=())


@pytest.mark.parametrize(
    ("kind", "deaths_before", "fails"),
    [
        (RunKind.NORMAL, 0, False),
        (RunKind.NORMAL, 1, False),
        (RunKind.NORMAL, 9, False),  # something else in the run may have killed the worker
        (RunKind.PROBE, 3, False),
        (RunKind.PROBE, 4, True),  # a probe is a run of one delivery too
        (RunKind.ALONE, 2, False),
        (RunKind.ALONE, 3, False),
        (RunKind.ALONE, 4, True),
        (RunKind.ALONE, 9, True),
    ],
)
def test_a_delivery_fails_by_its_third_death_alone_and_not_before(
    kind: RunKind, deaths_before: int, *, fails: bool
) -> None:
    this = attempt(2, AttemptState.STARTED, in_a_try=True, deaths=deaths_before, kind=kind)
    message = death_message(this, kind)
    assert (message is not None) is fails
    assert lost(this, kind=kind).died == ((this, message),)


def test_the_message_says_how_often_where_and_what_to_do() -> None:
    message = death_message(attempt(2, AttemptState.STARTED, in_a_try=True, deaths=4), RunKind.ALONE)
    assert message is not None
    assert "died 5 times" in message
    assert f"{DEATHS_ALONE} times with nothing else to do" in message
    assert "d2" in message
    assert "nexus-tasks retry" in message
    assert "\n" not in message
