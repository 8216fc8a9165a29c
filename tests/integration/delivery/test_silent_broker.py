"""A broker that accepts connections and says nothing: frozen, or on a host that is half dead."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.signals import worker_init
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer
from sqlalchemy import text

import nexus_tasks.celery as celery_module
from nexus_tasks.broker import queue_lengths
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery import rescuer
from nexus_tasks.delivery.canvas import COLLECT
from nexus_tasks.deployment import Deployment
from nexus_tasks.sandbox.valkey import EmbeddedValkey
from nexus_tasks.states import AttemptState, DeliveryState, RunState
from tests.integration.delivery.by_hand import (
    Deploy,
    attempts_of,
    cdcs,
    elabftw,
    empty_broker,
    hand_over,
    lose_open_runs,
    records_to_export,
    send,
    states_of,
)
from tests.timing import fastest

MOST_SECONDS_WITH_A_SILENT_BROKER = 4.0  # two waits of 1.3 s, and the database
POLL_S = 1  # in which kombu has Redis wait for a message


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which connections are accepted, by the system, and nothing is ever answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield int(server.getsockname()[1])


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A broker of the test's own, which it may freeze."""
    with EmbeddedValkey(tmp_path / "valkey", append_only=False) as server:
        yield server


def silent(deploy: Deploy, url: str, first_stage: Sequence[str]) -> Deployment:
    return deploy(
        cdcs(),
        elabftw(depends_on=() if len(first_stage) == 2 else ("cdcs",)),
        NX_BROKER_URL=url,
        NX_RESULT_BACKEND_URL=url.replace("amqp:", "redis:").rstrip("/"),
    )


STAGES = pytest.mark.parametrize("first_stage", [("cdcs",), ("cdcs", "elabftw")], ids=["one-first", "both-first"])


@STAGES
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_builder_waits_some_three_seconds_for_a_broker_that_never_answers(
    deploy: Deploy, silent_port: int, scheme: str, first_stage: Sequence[str]
) -> None:
    deployment = silent(deploy, f"{scheme}://127.0.0.1:{silent_port}/", first_stage)
    problems = []
    seconds = fastest(
        lambda: problems.append(hand_over(deployment).broker_problem), enough=MOST_SECONDS_WITH_A_SILENT_BROKER
    )
    assert seconds < MOST_SECONDS_WITH_A_SILENT_BROKER
    assert all(problem and "NX_BROKER_URL" in problem for problem in problems)
    assert set(states_of(deployment).values()) == {DeliveryState.PENDING}
    assert {(row.state, row.run_state) for row in attempts_of(deployment)} == {
        (AttemptState.CANCELLED, RunState.CLOSED)
    }


@STAGES
def test_a_builder_waits_some_three_seconds_for_a_broker_that_freezes_after_it_was_used(
    deploy: Deploy, valkey: EmbeddedValkey, first_stage: Sequence[str]
) -> None:
    deployment = silent(deploy, valkey.url, first_stage)
    first, *later = records_to_export(4)
    assert hand_over(deployment, first).broker_problem is None
    valkey.process.suspend()
    problems = []
    seconds = fastest(
        lambda: problems.append(hand_over(deployment, later.pop()).broker_problem),
        enough=MOST_SECONDS_WITH_A_SILENT_BROKER,
    )
    assert seconds < MOST_SECONDS_WITH_A_SILENT_BROKER
    assert all(problems)
    valkey.process.resume()
    assert send(deployment) == len(problems)


def test_no_row_is_locked_while_the_broker_is_asked(
    deploy: Deploy, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    empty_broker(broker_url)
    lose_open_runs(deployment)
    asked = []

    def ask(*args: Any) -> dict[str, int]:
        with transaction(deployment.engine) as connection:
            for table in ("record", "run", "attempt", "delivery"):
                connection.execute(text(f"SELECT id FROM {table} FOR UPDATE NOWAIT"))
        asked.append(args)
        return queue_lengths(*args)

    monkeypatch.setattr(rescuer, "queue_lengths", ask)
    assert send(deployment) == 1
    assert len(asked) == 1


def test_all_queues_of_a_silent_broker_cost_one_wait(deploy: Deploy, silent_port: int) -> None:
    app = deploy(cdcs(), NX_BROKER_URL=f"redis://127.0.0.1:{silent_port}/0").app
    queues = [f"export.{number}" for number in range(10)]
    lengths: dict[str, int] = {}
    seconds = fastest(lambda: lengths.update(queue_lengths(app, queues)), enough=MOST_SECONDS_WITH_A_SILENT_BROKER)
    assert seconds < MOST_SECONDS_WITH_A_SILENT_BROKER
    assert lengths == dict.fromkeys(queues, 1), "what is not known may hold a message"


def take(connection: Connection, seconds: float) -> list[Any]:
    """What comes to a consumer in that time."""
    taken: list[Any] = []
    give_up_at = time.monotonic() + seconds
    queue = Queue("exports")  # type: ignore[no-untyped-call]
    with Consumer(connection, [queue], callbacks=[lambda body, _: taken.append(body)], no_ack=True):  # type: ignore[no-untyped-call]
        while not taken and time.monotonic() < give_up_at:
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.5)  # type: ignore[no-untyped-call]
    return taken


def test_who_waits_for_messages_keeps_the_connection(
    deploy: Deploy, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's patience with a silent broker must outlast each wait, however often it waits."""
    patience = POLL_S + 0.5
    monkeypatch.setitem(celery_module._REDIS_OPTIONS, "socket_timeout", patience)
    app = deploy(cdcs()).app
    with app.connection_for_read() as connection:
        assert take(connection, 3 * patience) == []
        app.send_task(COLLECT, args=("it works",), queue="exports")
        [message] = take(connection, 60)
    assert message[0] == ["it works"]


class Starting:
    """As much of a worker as the signal needs; a real one would change how results are read in this process."""

    def __init__(self, app: Celery) -> None:
        self.app = app


def test_a_worker_is_patient_with_its_broker_and_its_results(deploy: Deploy, broker_url: str) -> None:
    app = deploy(cdcs()).app
    worker_init.send(sender=Starting(app))
    with app.connection_for_write() as connection:
        assert connection.transport_options["socket_timeout"] == celery_module.WORKERS_SILENCE_S
    assert app.backend.connparams["socket_timeout"] == celery_module.WORKERS_SILENCE_S


def test_who_asks_workers_something_can_end_the_connection_while_it_waits_for_their_answers(
    deploy: Deploy, broker_url: str
) -> None:
    """Celery's `inspect` takes the answers by a connection for publishing; at its end a wait is still under way."""
    with deploy(cdcs()).app.connection_for_write() as connection:
        assert take(connection, 0.2) == []
