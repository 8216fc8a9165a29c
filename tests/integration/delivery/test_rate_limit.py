"""A destination whose calls keep an interval: its turns stand in its row, and nobody waits with a worker in hand."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from uuid import uuid4

import pytest
from sqlalchemy import text

from nexus_tasks.db import destinations
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery import turns
from nexus_tasks.delivery.attempt import Attempt
from nexus_tasks.delivery.lease import LeaseLostError
from nexus_tasks.delivery.turns import SLACK_S, NotYourTurnError
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportContext, ExportResult, TransientError
from nexus_tasks.states import AttemptState, RunState
from tests.integration.delivery.by_hand import (
    Deploy,
    attempts_of,
    finish,
    hand_over,
    labarchives,
    lose_open_runs,
    perform,
    records_to_export,
    remote_of,
    send,
    snooze,
    started,
    success,
)

INTERVAL = 30.0  # seconds; no test waits for it
SHORT = 0.2


@pytest.fixture(autouse=True)
def _unlearned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a process that knows nothing yet of how much slack it needs."""
    monkeypatch.setattr(turns, "_slack", {})


def three_objects(calls: list[str]) -> Callable[[ExportContext], ExportResult]:
    """An export of three creating calls."""

    def answer(context: ExportContext) -> ExportResult:
        def call(step: str) -> str:
            context.take_turn()
            calls.append(step)
            return f"id of {step}"

        for step in ("page", "summary", "attachment"):
            context.checkpoint.create(step, lambda step=step: call(step))  # type: ignore[misc]
        return success("labarchives")

    return answer


def next_turn(deployment: Deployment) -> None:
    """Have the interval pass since the last call."""
    with transaction(deployment.engine) as connection:
        connection.execute(
            text("UPDATE destination SET last_call_at = last_call_at - :by, last_turn_at = last_turn_at - :by"),
            {"by": timedelta(seconds=INTERVAL + SLACK_S)},
        )


def put_off(deployment: Deployment) -> tuple[Attempt, float]:
    """Begin a try that has to wait; the seconds that it is told."""
    this = started(deployment, "labarchives")
    with pytest.raises(NotYourTurnError) as waiting:
        perform(deployment, this)
    return this, waiting.value.seconds


def test_an_export_goes_on_from_turn_to_turn_and_repeats_nothing(deploy: Deploy) -> None:
    calls: list[str] = []
    deployment = deploy(labarchives(depends_on=(), interval=INTERVAL, answer=three_objects(calls)))
    hand_over(deployment)
    for made in (["page"], ["page", "summary"]):
        this, seconds = put_off(deployment)
        assert calls == made
        assert INTERVAL / 2 < seconds <= INTERVAL + SLACK_S
        snooze(deployment, this, seconds)
        next_turn(deployment)
    this = started(deployment, "labarchives")
    finish(deployment, this, perform(deployment, this))
    assert calls == ["page", "summary", "attachment"]
    [row] = attempts_of(deployment)
    assert (row.state, row.tries) == (AttemptState.SUCCEEDED, 1)


def test_a_call_that_has_to_wait_leaves_no_intent_behind(deploy: Deploy) -> None:
    deployment = deploy(labarchives(depends_on=(), interval=INTERVAL, answer=three_objects([])))
    hand_over(deployment)
    put_off(deployment)
    assert set(remote_of(deployment, "labarchives")) == {"page"}


def test_a_try_that_waits_for_its_turn_gives_its_lease_back_and_its_run_stays_open(deploy: Deploy) -> None:
    deployment = deploy(labarchives(depends_on=(), interval=INTERVAL, answer=three_objects([])))
    hand_over(deployment)
    this, seconds = put_off(deployment)
    lose_open_runs(deployment)
    snooze(deployment, this, seconds)
    [row] = attempts_of(deployment)
    assert row.lease_token is None
    assert not row.state.ended
    assert send(deployment) == 0
    assert attempts_of(deployment)[0].run_state is RunState.OPEN


def test_a_try_that_has_read_something_stays_and_waits(deploy: Deploy) -> None:
    calls: list[float] = []

    def answer(context: ExportContext) -> ExportResult:
        for _ in range(3):  # none of them is remembered
            context.take_turn()
            calls.append(time.monotonic())
        return success("labarchives")

    deployment = deploy(labarchives(depends_on=(), interval=SHORT, answer=answer))
    hand_over(deployment)
    this = started(deployment, "labarchives")
    finish(deployment, this, perform(deployment, this))
    assert all(later - earlier >= SHORT for earlier, later in pairwise(calls))
    assert attempts_of(deployment)[0].state is AttemptState.SUCCEEDED


@dataclass
class OneReads:
    """The first record's export reads before it creates, the second one's only creates."""

    after_reading: Callable[[], None] = lambda: None

    def __call__(self, context: ExportContext) -> ExportResult:
        if context.session_identifier == "session-1":
            context.take_turn()
            self.after_reading()
        context.checkpoint.create("page", partial(self._create, context))
        return success("labarchives")

    @staticmethod
    def _create(context: ExportContext) -> str:
        context.take_turn()
        return "1"


def two_records(deploy: Deploy, exports: OneReads) -> Deployment:
    deployment = deploy(labarchives(depends_on=(), interval=SHORT, window=2, answer=exports))
    hand_over(deployment, *records_to_export(2))
    return deployment


def test_one_that_stays_makes_its_next_call_before_all_others(deploy: Deploy) -> None:
    waits: list[float] = []
    exports = OneReads()
    deployment = two_records(deploy, exports)
    second = started(deployment, "labarchives", 2)

    def let_the_second_ask() -> None:
        next_turn(deployment)
        with pytest.raises(NotYourTurnError) as waiting:
            perform(deployment, second)
        waits.append(waiting.value.seconds)

    exports.after_reading = let_the_second_ask
    perform(deployment, started(deployment, "labarchives"))
    assert waits == [pytest.approx(destinations.FLOOR_WAIT_S, abs=SHORT)]
    assert remote_of(deployment, "labarchives", 2) == {}
    next_turn(deployment)
    assert perform(deployment, second).success


def test_the_others_go_on_as_soon_as_what_was_made_is_written_down(deploy: Deploy) -> None:
    second_went: list[bool] = []

    def answer(context: ExportContext) -> ExportResult:
        def call() -> str:
            context.take_turn()
            context.take_turn()  # of a request that takes two calls
            return "1"

        context.checkpoint.create("page", call)
        if context.session_identifier == "session-1":
            next_turn(deployment)
            second_went.append(perform(deployment, second).success)
        return success("labarchives")

    deployment = deploy(labarchives(depends_on=(), interval=SHORT, window=2, answer=answer))
    hand_over(deployment, *records_to_export(2))
    second = started(deployment, "labarchives", 2)
    assert perform(deployment, started(deployment, "labarchives")).success
    assert second_went == [True]


def test_one_that_fails_while_it_stays_keeps_nobody_waiting(deploy: Deploy) -> None:
    def fail() -> None:
        raise TransientError("503")

    deployment = two_records(deploy, OneReads(after_reading=fail))
    with pytest.raises(TransientError):
        perform(deployment, started(deployment, "labarchives"))
    next_turn(deployment)
    assert perform(deployment, started(deployment, "labarchives", 2)).success


def test_one_that_died_while_it_stayed_is_waited_for_no_longer_than_a_call_takes(deploy: Deploy) -> None:
    deployment = two_records(deploy, OneReads())
    with transaction(deployment.engine) as connection:
        destinations.take_turn(connection, "labarchives", SHORT, SLACK_S, uuid4(), floor_for=60)
    next_turn(deployment)
    second = started(deployment, "labarchives", 2)
    with pytest.raises(NotYourTurnError):
        perform(deployment, second)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE destination SET floor_until = now()"))
    next_turn(deployment)
    assert perform(deployment, second).success


def test_a_body_that_takes_long_to_make_is_sent_all_the_same_and_the_next_one_in_its_turn(deploy: Deploy) -> None:
    calls: list[float] = []

    def answer(context: ExportContext) -> ExportResult:
        def call() -> str:
            time.sleep(2 * SLACK_S)
            context.take_turn()
            calls.append(time.monotonic())
            return "1"

        for step in ("page", "summary"):
            context.checkpoint.create(step, call)
            time.sleep(SHORT)  # what else it does
        return success("labarchives")

    deployment = deploy(labarchives(depends_on=(), interval=SHORT, answer=answer))
    hand_over(deployment)
    for _ in range(20):  # the second object waits for a later try
        this = started(deployment, "labarchives")
        try:
            finish(deployment, this, perform(deployment, this))
            break
        except NotYourTurnError as error:
            snooze(deployment, this, error.seconds)
            time.sleep(error.seconds)
    assert attempts_of(deployment)[0].state is AttemptState.SUCCEEDED
    assert len(calls) == 2
    assert calls[1] - calls[0] >= SHORT


def test_how_much_slack_is_needed_is_learned_and_forgotten_again(deploy: Deploy) -> None:
    deployment = deploy(labarchives(depends_on=()))
    hand_over(deployment)
    own = turns.Turns(deployment.engine, "labarchives", interval=SHORT, longest_call=60, stays=True)
    own.take_ahead()
    time.sleep(3 * SLACK_S)
    own.take()
    assert turns._slack["labarchives"] > 3 * SLACK_S
    for _ in range(30):
        own._in_time(turns._Turn(time.monotonic(), turns._slack["labarchives"]))
    assert turns._slack["labarchives"] == SLACK_S


def test_while_it_waits_with_a_worker_in_hand_its_lease_is_kept(deploy: Deploy) -> None:
    def lost() -> None:
        raise LeaseLostError

    deployment = deploy(labarchives(depends_on=()))
    hand_over(deployment)
    own = turns.Turns(deployment.engine, "labarchives", interval=INTERVAL, longest_call=60, stays=True, still_mine=lost)
    own.take()
    with pytest.raises(LeaseLostError):
        own.take()


def test_without_an_interval_no_turn_is_noted(deploy: Deploy) -> None:
    calls: list[str] = []
    deployment = deploy(labarchives(depends_on=(), answer=three_objects(calls)))
    hand_over(deployment)
    perform(deployment, started(deployment, "labarchives"))
    assert len(calls) == 3
    with transaction(deployment.engine) as connection:
        assert connection.execute(text("SELECT last_call_at FROM destination")).scalar_one() is None


def test_the_setting_comes_before_what_the_plugin_says(deploy: Deploy) -> None:
    calls: list[str] = []
    plugin = labarchives(depends_on=(), interval=INTERVAL, answer=three_objects(calls))
    deployment = deploy(plugin, NX_INTERVALS="labarchives=0")
    hand_over(deployment)
    perform(deployment, started(deployment, "labarchives"))
    assert len(calls) == 3


def test_those_that_wait_are_told_to_come_one_after_the_other(deploy: Deploy) -> None:
    deployment = deploy(labarchives(depends_on=()))
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        destinations.take_turn(connection, "labarchives", INTERVAL, 0, uuid4())
        waits = [destinations.queue_up(connection, "labarchives", INTERVAL, 0) for _ in range(3)]
    assert waits == [pytest.approx(number * INTERVAL, abs=1) for number in (1, 2, 3)]


def test_of_many_that_ask_at_once_one_gets_the_turn(deploy: Deploy) -> None:
    deployment = deploy(labarchives(depends_on=()))
    hand_over(deployment)

    def ask(_: int) -> float:
        with transaction(deployment.engine) as connection:
            return destinations.take_turn(connection, "labarchives", INTERVAL, 0, uuid4())

    with ThreadPoolExecutor(8) as threads:
        waits = sorted(threads.map(ask, range(8)))
    assert waits[0] == 0
    assert all(INTERVAL / 2 < wait <= INTERVAL for wait in waits[1:])
