"""A destination whose calls keep an interval: one attempt in flight, one caller at a time, and it sleeps in between."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from nexus_tasks.db import destinations
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.delivery import rate_limit
from nexus_tasks.delivery.lease import LeaseLostError
from nexus_tasks.delivery.rate_limit import RateLimit, RateLimitedError
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportContext, ExportResult, TransientError
from nexus_tasks.states import AttemptState, RunState
from tests.integration.delivery.by_hand import (
    Deploy,
    Fake,
    attempts_of,
    cdcs,
    finish,
    hand_over,
    labarchives,
    lose_open_runs,
    pass_time,
    perform,
    performed,
    records_to_export,
    remote_of,
    rows_of,
    send,
    snooze,
    started,
    success,
    work,
)

INTERVAL = 30.0  # seconds; no test waits for it
SHORT = 0.2
ROUND_TRIP_S = 0.008  # to a database in another building


def three_objects(calls: list[tuple[str, float]]) -> Callable[[ExportContext], ExportResult]:
    """An export that reads, and makes three objects: what it calls, and when."""

    def answer(context: ExportContext) -> ExportResult:
        def call(step: str) -> str:
            context.take_turn()
            calls.append((step, time.monotonic()))
            return f"id of {step}"

        call("look")
        for step in ("page", "summary", "attachment"):
            context.checkpoint.create(step, lambda step=step: call(step))  # type: ignore[misc]
        return success("labarchives")

    return answer


def least_between(calls: list[tuple[str, float]]) -> float:
    return min(later - earlier for (_, earlier), (_, later) in pairwise(calls))


def row_of(deployment: Deployment) -> Any:
    """What the destination's row says of its rate limit."""
    with transaction(deployment.engine) as connection:
        return connection.execute(
            text("SELECT last_call_at, rate_limit_token, rate_limit_until FROM destination")
        ).one()


def hold(deployment: Deployment) -> None:
    """Have somebody else hold the token."""
    engine = deployment.engine
    assert destinations.take_rate_limit_token(engine, "labarchives", uuid4(), timedelta(hours=1)) is not None


def expire_token(deployment: Deployment) -> None:
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE destination SET rate_limit_until = clock_timestamp()"))


# --- in flight


@pytest.mark.parametrize(
    ("plugin", "settings"),
    [(cdcs(interval=SHORT), {}), (cdcs(), {"NX_INTERVALS": "cdcs=1", "NX_WINDOWS": "cdcs=8"})],
    ids=["by its plugin", "by the settings"],
)
def test_a_destination_with_an_interval_has_one_attempt_in_flight(
    deploy: Deploy, plugin: Fake, settings: dict[str, str]
) -> None:
    deployment = deploy(plugin, **settings)
    hand_over(deployment, *records_to_export(3))
    assert send(deployment) == 0
    assert [len(attempts_of(deployment, record_id)) for record_id in (1, 2, 3)] == [1, 0, 0]
    work(deployment, "cdcs", record_id=1)
    assert send(deployment) == 1
    assert send(deployment) == 0
    assert [len(attempts_of(deployment, record_id)) for record_id in (1, 2, 3)] == [1, 1, 0]


# --- the interval


def test_the_calls_of_attempts_one_after_the_other_start_the_interval_apart(deploy: Deploy) -> None:
    calls: list[tuple[str, float]] = []
    deployment = deploy(labarchives(depends_on=(), interval=SHORT, answer=three_objects(calls)))
    hand_over(deployment, *records_to_export(2))
    for record_id in (1, 2):
        work(deployment, "labarchives", record_id=record_id)
        send(deployment)
    assert [step for step, _ in calls] == ["look", "page", "summary", "attachment"] * 2
    assert least_between(calls) >= SHORT
    assert [attempts_of(deployment, record_id)[0].state for record_id in (1, 2)] == [AttemptState.SUCCEEDED] * 2


def test_a_check_beside_a_worker_waits_for_its_attempt_and_keeps_the_interval(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "POLL_S", 0.01)
    calls: list[tuple[str, float]] = []

    def check() -> None:
        limit = RateLimit.of(deployment.engine, plugin, deployment.settings)
        limit.wait_patiently()
        calls.append(("check", time.monotonic()))
        limit.release()

    def answer(context: ExportContext) -> ExportResult:
        context.take_turn()
        calls.append(("first", time.monotonic()))
        checks.append(threads.submit(check))
        context.take_turn()
        calls.append(("second", time.monotonic()))
        return success("labarchives")

    plugin = labarchives(depends_on=(), interval=SHORT, answer=answer)
    deployment = deploy(plugin)
    hand_over(deployment, *records_to_export(2))
    checks: list[Any] = []
    with ThreadPoolExecutor(1) as threads:
        work(deployment, "labarchives", record_id=1)
        checks[0].result()
        send(deployment)
        work(deployment, "labarchives", record_id=2)
    assert [name for name, _ in calls] == ["first", "second", "check"] * 2
    assert least_between(calls) >= SHORT


def test_of_many_that_ask_at_once_one_after_the_other_calls(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "POLL_S", 0.01)
    calls: list[tuple[str, float]] = []
    plugin = labarchives(depends_on=(), interval=SHORT)
    deployment = deploy(plugin)
    hand_over(deployment)

    def ask(number: int) -> None:
        limit = RateLimit.of(deployment.engine, plugin, deployment.settings)
        limit.wait_patiently()
        calls.append((str(number), time.monotonic()))
        limit.release()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, range(6)))
    assert len(calls) == 6
    assert least_between(calls) >= SHORT


def test_a_body_that_takes_long_to_make_is_sent_all_the_same_and_the_next_one_in_its_time(deploy: Deploy) -> None:
    calls: list[tuple[str, float]] = []

    def answer(context: ExportContext) -> ExportResult:
        def call() -> str:
            time.sleep(SHORT)
            context.take_turn()
            calls.append(("call", time.monotonic()))
            return "1"

        context.checkpoint.create("page", call)
        context.take_turn()  # at once
        calls.append(("look", time.monotonic()))
        return success("labarchives")

    deployment = deploy(labarchives(depends_on=(), interval=SHORT, answer=answer))
    hand_over(deployment)
    work(deployment, "labarchives")
    assert attempts_of(deployment)[0].state is AttemptState.SUCCEEDED
    assert len(calls) == 2
    assert least_between(calls) >= SHORT


@contextmanager
def far_away(url: str) -> Iterator[str]:
    """The database as if it were so far away: a port through which every byte takes half a round trip."""
    there = make_url(url)
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while received := source.recv(65536):
                time.sleep(ROUND_TRIP_S / 2)
                target.sendall(received)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((there.host or "", there.port or 0))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    here = there.set(host="127.0.0.1", port=listener.getsockname()[1]).render_as_string(hide_password=False)
    try:
        yield here
    finally:
        engine_for(here).dispose()
        listener.close()


def test_a_database_that_is_far_away_does_not_bring_calls_closer_together(deploy: Deploy, database_url: str) -> None:
    calls: list[tuple[str, float]] = []
    near = deploy(labarchives(depends_on=(), interval=SHORT, answer=three_objects(calls)))
    hand_over(near, *records_to_export(2))
    with far_away(database_url) as url:
        deployment = replace(near, engine=engine_for(url))
        for record_id in (1, 2):
            work(deployment, "labarchives", record_id=record_id)
            send(deployment)
    assert len(calls) == 8
    assert least_between(calls) >= SHORT


# --- the token


def test_an_attempt_that_finds_the_token_held_is_snoozed_and_nothing_is_counted(deploy: Deploy) -> None:
    calls: list[tuple[str, float]] = []
    deployment = deploy(labarchives(depends_on=(), interval=SHORT, answer=three_objects(calls)))
    hand_over(deployment)
    hold(deployment)
    this = started(deployment, "labarchives")
    with pytest.raises(RateLimitedError) as limited:
        perform(deployment, this)
    lose_open_runs(deployment)
    snooze(deployment, this, limited.value.seconds)
    [row] = attempts_of(deployment)
    assert (row.state, row.lease_token, row.tries, row.failures) == (AttemptState.STARTED, None, 0, 0)
    assert send(deployment) == 0
    assert attempts_of(deployment)[0].run_state is RunState.OPEN
    expire_token(deployment)
    work(deployment, "labarchives")
    [row] = attempts_of(deployment)
    assert (row.state, row.tries) == (AttemptState.SUCCEEDED, 1)
    assert rows_of(deployment)["labarchives"].failures == 0


def test_a_call_that_may_not_be_made_leaves_no_intent_behind(deploy: Deploy) -> None:
    def answer(context: ExportContext) -> ExportResult:
        def call() -> str:
            context.take_turn()
            return "1"

        return success("labarchives", context.checkpoint.create("page", call))

    plugin = labarchives(depends_on=(), interval=SHORT, answer=answer)
    deployment = deploy(plugin)
    hand_over(deployment)
    hold(deployment)
    with pytest.raises(RateLimitedError):
        performed(deployment, plugin)
    assert remote_of(deployment, "labarchives") == {}


def test_an_attempt_that_is_snoozed_between_its_calls_repeats_nothing(deploy: Deploy) -> None:
    made: list[str] = []

    def answer(context: ExportContext) -> ExportResult:
        def call(step: str) -> str:
            context.take_turn()
            made.append(step)
            return f"id of {step}"

        context.checkpoint.create("page", lambda: call("page"), find=lambda: None)
        if made == ["page"]:  # it has computed for so long that its token is gone
            expire_token(deployment)
            hold(deployment)
        context.checkpoint.create("summary", lambda: call("summary"), find=lambda: None)
        return success("labarchives")

    deployment = deploy(labarchives(depends_on=(), interval=SHORT, answer=answer))
    hand_over(deployment)
    this = started(deployment, "labarchives")
    with pytest.raises(RateLimitedError) as limited:
        perform(deployment, this)
    snooze(deployment, this, limited.value.seconds)
    assert remote_of(deployment, "labarchives") == {"page": {"id": "id of page", "content": None}}
    expire_token(deployment)
    made.append("again")
    work(deployment, "labarchives")
    assert made == ["page", "again", "summary"]
    assert attempts_of(deployment)[0].state is AttemptState.SUCCEEDED


def test_an_intent_holds_for_a_call_that_begins_after_the_sleep(deploy: Deploy) -> None:
    remaining: list[float] = []

    def answer(context: ExportContext) -> ExportResult:
        def call() -> str:
            context.take_turn()
            until = datetime.fromisoformat(remote_of(deployment, "labarchives")["page"]["unresolved_until"])
            with transaction(deployment.engine) as connection:
                remaining.append((until - connection.execute(text("SELECT now()")).scalar_one()).total_seconds())
            return "1"

        context.take_turn()
        return success("labarchives", context.checkpoint.create("page", call))

    deployment = deploy(labarchives(depends_on=(), interval=1, answer=answer))
    hand_over(deployment)
    work(deployment, "labarchives")
    settings = deployment.settings
    assert remaining[0] > settings.NX_CALL_DEADLINE + settings.NX_LOOKUP_GRACE - 1


def test_one_that_fails_lets_go_at_once_and_its_last_call_is_remembered(deploy: Deploy) -> None:
    def answer(context: ExportContext) -> ExportResult:
        context.take_turn()
        raise TransientError("503")

    plugin = labarchives(depends_on=(), interval=INTERVAL, answer=answer)
    deployment = deploy(plugin)
    hand_over(deployment)
    with pytest.raises(TransientError):
        performed(deployment, plugin)
    row = row_of(deployment)
    assert row.last_call_at is not None
    assert (row.rate_limit_token, row.rate_limit_until) == (None, None)


def test_one_that_made_no_call_leaves_the_moment_of_the_last_one(deploy: Deploy) -> None:
    plugin = labarchives(depends_on=(), interval=INTERVAL)
    deployment = deploy(plugin)
    hand_over(deployment)
    limit = RateLimit.of(deployment.engine, plugin, deployment.settings)
    limit.wait_patiently()
    limit.release()
    before = row_of(deployment)
    performed(deployment, plugin)
    assert row_of(deployment) == before
    assert before.last_call_at is not None


def test_a_holder_that_died_lets_go_when_its_token_expires(deploy: Deploy) -> None:
    plugin = labarchives(depends_on=(), interval=SHORT, answer=three_objects([]))
    deployment = deploy(plugin)
    hand_over(deployment)
    hold(deployment)
    this = started(deployment, "labarchives")
    with pytest.raises(RateLimitedError):
        perform(deployment, this)
    expire_token(deployment)
    finish(deployment, this, perform(deployment, this))
    assert attempts_of(deployment)[0].state is AttemptState.SUCCEEDED


def test_a_token_outlasts_the_sleep_before_the_call_of_a_holder_that_dies_and_the_interval_after_it(
    deploy: Deploy,
) -> None:
    """Nobody is left to write down when that call was made."""
    plugin = labarchives(depends_on=(), interval=INTERVAL)
    deployment = deploy(plugin, NX_CALL_DEADLINE="1", NX_LEASE_MARGIN="1")
    hand_over(deployment)
    RateLimit.of(deployment.engine, plugin, deployment.settings).wait()
    with transaction(deployment.engine) as connection:
        left = connection.execute(text("SELECT rate_limit_until - now() FROM destination")).scalar_one()
    assert left > timedelta(seconds=2 * INTERVAL)


# --- a long export


def test_an_attempt_that_has_slept_for_long_gives_its_worker_back_before_an_intent_and_repeats_nothing(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "MOST_SLEEP_S", SHORT)
    calls: list[tuple[str, float]] = []
    deployment = deploy(labarchives(depends_on=(), interval=SHORT, answer=three_objects(calls)))
    hand_over(deployment)
    this = started(deployment, "labarchives")
    with pytest.raises(RateLimitedError) as limited:
        perform(deployment, this)
    assert [step for step, _ in calls] == ["look", "page"]
    snooze(deployment, this, limited.value.seconds)
    assert remote_of(deployment, "labarchives") == {"page": {"id": "id of page", "content": None}}
    monkeypatch.setattr(rate_limit, "MOST_SLEEP_S", INTERVAL)
    work(deployment, "labarchives")
    assert [step for step, _ in calls] == ["look", "page", "look", "summary", "attachment"]
    assert attempts_of(deployment)[0].state is AttemptState.SUCCEEDED
    assert least_between(calls) >= SHORT


def test_a_check_that_has_slept_for_long_goes_on(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_SLEEP_S", SHORT)
    monkeypatch.setattr(rate_limit, "POLL_S", 0.01)
    plugin = labarchives(depends_on=(), interval=SHORT)
    deployment = deploy(plugin)
    hand_over(deployment)
    limit = RateLimit.of(deployment.engine, plugin, deployment.settings)
    for _ in range(4):
        limit.wait_patiently()
    limit.release()


# --- the lease


def test_a_long_sleep_looks_at_the_lease_every_now_and_then(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "SLICE_S", 0.01)
    plugin = labarchives(depends_on=(), interval=INTERVAL)
    deployment = deploy(plugin)
    hand_over(deployment)
    looks: list[float] = []

    def lost_in_the_end() -> None:
        looks.append(time.monotonic())
        if len(looks) == 3:
            raise LeaseLostError

    limit = RateLimit.of(deployment.engine, plugin, deployment.settings)
    limit.wait()
    limit.leaves()
    with pytest.raises(LeaseLostError):
        limit.wait(lost_in_the_end)
    assert len(looks) == 3


def between_two_calls(deploy: Deploy, happens: Callable[[Deployment], None]) -> tuple[Deployment, list[str]]:
    """An attempt in which something happens before it sleeps; it is not performed yet, and knows what it called."""
    calls: list[str] = []

    def answer(context: ExportContext) -> ExportResult:
        context.take_turn()
        calls.append("first")
        happens(deployment)
        context.take_turn()
        calls.append("second")
        return success("labarchives")

    deployment = deploy(labarchives(depends_on=(), interval=SHORT, answer=answer))
    hand_over(deployment)
    return deployment, calls


def test_an_attempt_that_sleeps_extends_its_lease(deploy: Deploy) -> None:
    def nearly_run_out(deployment: Deployment) -> None:
        pass_time(deployment, deployment.settings.NX_CALL_DEADLINE, this)

    deployment, calls = between_two_calls(deploy, nearly_run_out)
    this = started(deployment, "labarchives")
    perform(deployment, this)
    assert calls == ["first", "second"]
    assert this.lease.ends - time.monotonic() > deployment.settings.NX_CALL_DEADLINE
    assert attempts_of(deployment)[0].lease_is_live


def test_an_attempt_that_lost_its_lease_while_it_slept_calls_no_more_and_lets_go(deploy: Deploy) -> None:
    def lost(deployment: Deployment) -> None:
        pass_time(deployment, deployment.settings.NX_CALL_DEADLINE, this)
        with transaction(deployment.engine) as connection:
            connection.execute(text("UPDATE attempt SET lease_token = gen_random_uuid()"))

    deployment, calls = between_two_calls(deploy, lost)
    this = started(deployment, "labarchives")
    with pytest.raises(LeaseLostError):
        perform(deployment, this)
    assert calls == ["first"]
    assert row_of(deployment).rate_limit_token is None


# --- without an interval


@pytest.mark.parametrize(
    ("plugin", "settings"),
    [
        (labarchives(depends_on=()), {}),
        (labarchives(depends_on=(), interval=INTERVAL), {"NX_INTERVALS": "labarchives=0"}),
    ],
    ids=["by its plugin", "by the settings, which come first"],
)
def test_without_an_interval_every_call_may_leave_and_nothing_is_written(
    deploy: Deploy, plugin: Fake, settings: dict[str, str]
) -> None:
    calls: list[tuple[str, float]] = []
    plugin.answer = three_objects(calls)
    deployment = deploy(plugin, **settings)
    hand_over(deployment)
    work(deployment, "labarchives")
    assert len(calls) == 4
    assert tuple(row_of(deployment)) == (None, None, None)


def test_a_destination_that_no_record_was_ever_sent_to_can_be_called(deploy: Deploy) -> None:
    plugin = labarchives(depends_on=(), interval=SHORT)
    deployment = deploy(plugin)
    limit = RateLimit.of(deployment.engine, plugin, deployment.settings)
    limit.wait_patiently()
    first = time.monotonic()
    limit.wait_patiently()
    assert time.monotonic() - first >= SHORT
    limit.release()
