"""A destination whose calls keep an interval: its turns stand in its row, and nobody waits with a worker in hand."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import text

from nexus_tasks.db import destinations
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.attempt import Try
from nexus_tasks.delivery.turns import SLACK_S, NotYourTurnError
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportContext, ExportResult
from nexus_tasks.states import AttemptState, RunState
from tests.integration.delivery.by_hand import (
    Deploy,
    attempts_of,
    begun,
    finish,
    give_back,
    hand_over,
    labarchives,
    lose_open_runs,
    perform,
    remote_of,
    send,
    success,
)

INTERVAL = 30.0  # seconds; no test waits for it
SHORT = 0.2


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


def put_off(deployment: Deployment) -> tuple[Try, float]:
    """Begin a try that has to wait; the seconds that it is told."""
    this = begun(deployment, "labarchives")
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
        give_back(deployment, this, seconds)
        next_turn(deployment)
    this = begun(deployment, "labarchives")
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
    give_back(deployment, this, seconds)
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
    this = begun(deployment, "labarchives")
    finish(deployment, this, perform(deployment, this))
    assert all(later - earlier >= SHORT for earlier, later in pairwise(calls))
    assert attempts_of(deployment)[0].state is AttemptState.SUCCEEDED


def test_without_an_interval_no_turn_is_noted(deploy: Deploy) -> None:
    calls: list[str] = []
    deployment = deploy(labarchives(depends_on=(), answer=three_objects(calls)))
    hand_over(deployment)
    perform(deployment, begun(deployment, "labarchives"))
    assert len(calls) == 3
    with transaction(deployment.engine) as connection:
        assert connection.execute(text("SELECT last_call_at FROM destination")).scalar_one() is None


def test_the_setting_comes_before_what_the_plugin_says(deploy: Deploy) -> None:
    calls: list[str] = []
    plugin = labarchives(depends_on=(), interval=INTERVAL, answer=three_objects(calls))
    deployment = deploy(plugin, NX_INTERVALS="labarchives=0")
    hand_over(deployment)
    perform(deployment, begun(deployment, "labarchives"))
    assert len(calls) == 3


def test_those_that_wait_are_told_to_come_one_after_the_other(deploy: Deploy) -> None:
    deployment = deploy(labarchives(depends_on=()))
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        destinations.take_turn(connection, "labarchives", INTERVAL)
        waits = [destinations.queue_up(connection, "labarchives", INTERVAL) for _ in range(3)]
    assert waits == [pytest.approx(number * INTERVAL, abs=1) for number in (1, 2, 3)]


def test_of_many_that_ask_at_once_one_gets_the_turn(deploy: Deploy) -> None:
    deployment = deploy(labarchives(depends_on=()))
    hand_over(deployment)

    def ask(_: int) -> float:
        with transaction(deployment.engine) as connection:
            return destinations.take_turn(connection, "labarchives", INTERVAL)

    with ThreadPoolExecutor(8) as threads:
        waits = sorted(threads.map(ask, range(8)))
    assert waits[0] == 0
    assert all(INTERVAL / 2 < wait <= INTERVAL for wait in waits[1:])
