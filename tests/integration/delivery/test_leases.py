"""One worker at a time works on a delivery: live leases, leases that ran out, and workers that come back late."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Thread

import pytest

from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.attempt import Attempt, Finished, NotWantedError
from nexus_tasks.delivery.lease import LeaseLostError
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportContext, ExportResult, TransientError
from nexus_tasks.exporters.http import open_session
from nexus_tasks.exporters.http_failures import Service
from nexus_tasks.states import AttemptState, DeliveryState, RunState, SessionStatus
from tests.integration.delivery.by_hand import (
    Deploy,
    Message,
    attempt_states,
    attempts_of,
    cdcs,
    die_in_try,
    elabftw,
    everything,
    finish,
    go_on,
    hand_over,
    log_of,
    message_for,
    pass_time,
    perform,
    rows_of,
    schedule_retry,
    send,
    start_message,
    started,
    states_of,
    success,
    try_once,
    work,
)

LEASE = 90  # seconds: the deadline of a call and a margin


def seconds_of_lease(deployment: Deployment) -> float:
    with transaction(deployment.engine) as connection:
        row = connection.exec_driver_sql("SELECT extract(epoch FROM lease_expires_at - now()) FROM attempt").one()
    return float(row[0])


def seconds_until_lost(deployment: Deployment) -> float:
    with transaction(deployment.engine) as connection:
        row = connection.exec_driver_sql(
            "SELECT extract(epoch FROM greatest(expected_by, ("
            "   SELECT max(greatest(lease_expires_at, ended_at + interval '120 s')) FROM attempt WHERE run_id = run.id"
            ")) - now()) FROM run ORDER BY id"
        ).first()
    assert row is not None
    return float(row[0])


def test_a_message_that_comes_again_while_a_worker_is_at_it_is_not_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    message = die_in_try(deployment, "cdcs")
    before = everything(deployment)
    pass_time(deployment, 0)
    with pytest.raises(NotWantedError, match="another worker"):
        start_message(deployment, message)
    assert everything(deployment) == before


def test_of_many_workers_with_the_same_message_one_begins(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    together = Barrier(6)

    def begin_together(_: int) -> bool:
        together.wait(10)
        try:
            return isinstance(start_message(deployment, message), Attempt)
        except NotWantedError:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(begin_together, range(6))) == [False] * 5 + [True]
    assert [row.tries for row in attempts_of(deployment)] == [1]


def test_a_message_that_comes_again_after_the_lease_ends_the_attempt_as_died_and_the_run_goes_on(
    deploy: Deploy,
) -> None:
    plugin = cdcs()
    deployment = deploy(plugin, elabftw())
    hand_over(deployment)
    message = die_in_try(deployment, "cdcs")
    pass_time(deployment, LEASE + 1)
    assert start_message(deployment, message) == Finished({})
    assert try_once(deployment, "elabftw")["state"] == "succeeded"
    reconcile(deployment.engine, 1)
    assert attempt_states(deployment) == [("cdcs", AttemptState.EXPIRED), ("elabftw", AttemptState.SUCCEEDED)]
    row = rows_of(deployment)["cdcs"]
    assert (row.state, row.deaths, row.failures) == (DeliveryState.PENDING, 1, 0)
    assert log_of(deployment) == [("elabftw", 1)]
    assert send(deployment) == 1
    assert work(deployment, "cdcs").deliveries["cdcs"] == "succeeded"
    assert rows_of(deployment)["cdcs"].deaths == 0


def test_a_worker_that_finishes_after_its_lease_ran_out_unnoticed_is_heard(deploy: Deploy) -> None:
    """Nobody else has taken the delivery: what it says is true."""
    deployment = deploy(cdcs())
    hand_over(deployment)
    this = started(deployment, "cdcs")
    pass_time(deployment, LEASE + 1, this)
    finish(deployment, this, success("cdcs"))
    assert reconcile(deployment.engine, 1).record_status is SessionStatus.COMPLETED


@pytest.mark.parametrize("outcome", [success("cdcs"), TransientError("late")])
def test_a_worker_that_was_given_up_writes_nothing(deploy: Deploy, outcome: ExportResult | TransientError) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    this = started(deployment, "cdcs")
    pass_time(deployment, LEASE + 1, this)
    start_message(deployment, message)
    before = everything(deployment)
    assert finish(deployment, this, outcome) == Finished({})
    assert everything(deployment) == before
    reconcile(deployment.engine, 1)
    assert finish(deployment, this, outcome) == Finished({})
    if isinstance(outcome, TransientError):
        settled = everything(deployment)
        schedule_retry(deployment, this, outcome)
        assert everything(deployment) == settled


def test_a_worker_that_was_given_up_does_not_end_the_try_of_the_next_one(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    first = started(deployment, "cdcs")
    schedule_retry(deployment, first, TransientError("away"))
    second = started(deployment, "cdcs")
    finish(deployment, first, TransientError("late"))
    schedule_retry(deployment, first, TransientError("late"))
    [row] = attempts_of(deployment)
    assert (row.state, row.lease_token) == (AttemptState.STARTED, second.lease.token)


def test_between_two_tries_nobody_holds_the_lease_and_the_failure_is_remembered(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    schedule_retry(deployment, started(deployment, "cdcs"), TransientError("away"))
    [row] = attempts_of(deployment)
    assert (row.state, row.lease_token, row.error_message) == (AttemptState.STARTED, None, "away")
    assert try_once(deployment, "cdcs")["state"] == "succeeded"
    assert [row.tries for row in attempts_of(deployment)] == [2]
    assert log_of(deployment) == []
    reconcile(deployment.engine, 1)
    assert log_of(deployment) == [("cdcs", 1)]


def test_a_lease_lasts_for_a_call_and_a_margin_and_is_extended_before_a_call_that_would_outlast_it(
    deploy: Deploy,
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    this = started(deployment, "cdcs")
    assert LEASE - 10 < seconds_of_lease(deployment) <= LEASE
    pass_time(deployment, 20, this)
    this.lease.check()
    assert seconds_of_lease(deployment) <= LEASE - 20
    pass_time(deployment, 20, this)
    this.lease.check()
    assert LEASE - 10 < seconds_of_lease(deployment) <= LEASE


def test_a_lease_is_never_shortened(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    this = started(deployment, "cdcs")
    for seconds in (1000, 1):
        this.lease.extend(seconds)
    assert seconds_of_lease(deployment) > 1000


def test_a_lease_that_has_ended_cannot_be_extended(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    this = started(deployment, "cdcs")
    expected = seconds_until_lost(deployment)
    pass_time(deployment, LEASE + 1, this)
    with pytest.raises(LeaseLostError):
        this.lease.check()
    assert seconds_until_lost(deployment) <= expected - LEASE


@pytest.mark.parametrize("step", ["begin", "set aside", "finish", "defer", "die"])
def test_every_event_in_a_run_moves_on_when_the_next_one_is_expected(deploy: Deploy, step: str) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    this = None if step in {"begin", "defer"} else started(deployment, "cdcs")
    pass_time(deployment, LEASE + 20)
    assert seconds_until_lost(deployment) <= 30
    if this is None:
        if step == "defer":
            with transaction(deployment.engine) as connection:
                connection.exec_driver_sql("UPDATE destination SET paused = true WHERE name = 'cdcs'")
        try_once(deployment, "cdcs")
    elif step == "set aside":
        schedule_retry(deployment, this, TransientError("away"), countdown=20)
    elif step == "finish":
        finish(deployment, this, success("cdcs"))
    else:
        start_message(deployment, message)
    assert seconds_until_lost(deployment) > LEASE - 10


# --- directly before the bytes leave


@pytest.fixture
def received() -> list[str]:
    return []


@pytest.fixture
def service_url(received: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            received.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = _serve  # noqa: N815 - the names that http.server calls

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_worker_that_was_stopped_past_its_lease_sends_nothing(
    deploy: Deploy, service_url: str, received: list[str]
) -> None:
    tries: list[Attempt] = []

    def answer(_: ExportContext) -> ExportResult:
        session = open_session(Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN"), service_url)
        session.call("POST", "first")
        pass_time(deployment, LEASE + 1, tries[0])  # SIGSTOP, SIGCONT
        session.call("POST", "second")
        return success("cdcs")

    deployment = deploy(cdcs(answer=answer))
    hand_over(deployment)
    tries.append(started(deployment, "cdcs"))
    with pytest.raises(LeaseLostError):
        perform(deployment, tries[0])
    assert received == ["POST"]


def test_a_worker_that_was_stopped_for_a_while_goes_on_under_an_extended_lease(
    deploy: Deploy, service_url: str, received: list[str]
) -> None:
    tries: list[Attempt] = []

    def answer(_: ExportContext) -> ExportResult:
        session = open_session(Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN"), service_url)
        for _call in range(5):
            pass_time(deployment, 50, tries[0])
            session.call("POST", "next")
        return success("cdcs")

    deployment = deploy(cdcs(answer=answer))
    hand_over(deployment)
    tries.append(started(deployment, "cdcs"))
    go_on(deployment, tries[0])
    assert received == ["POST"] * 5
    assert states_of(deployment) == {"cdcs": DeliveryState.SUCCEEDED}


def test_outside_of_a_try_nobody_looks_at_a_lease(deploy: Deploy, service_url: str, received: list[str]) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    this = started(deployment, "cdcs")
    perform(deployment, this)
    pass_time(deployment, 1000, this)
    open_session(Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN"), service_url).call("POST", "x")
    assert received == ["POST"]
    assert {row.run_state for row in attempts_of(deployment)} == {RunState.OPEN}


# --- messages of other runs


def test_a_message_with_the_token_of_another_run_is_not_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    with pytest.raises(NotWantedError):
        start_message(deployment, Message(message.attempt_id, "0" * 32))
    assert isinstance(start_message(deployment, message), Attempt)
