"""What a worker says of itself, by the step that Celery's consumer runs: a real timer, fired by hand."""

import logging
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kombu.asynchronous.timer import Timer
from sqlalchemy import text

from nexus_tasks.config import get_settings
from nexus_tasks.db import workers
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.deployment import Deployment
from nexus_tasks.monitoring.presence import INTERVAL_S, LONGEST_INTERVAL_S, Presence, stores
from nexus_tasks.monitoring.shared_folder import MARKER, id_of
from tests.integration.delivery.by_hand import Deploy, cdcs
from tests.timing import fastest


class Consumer:
    """As much of a consumer as the step uses."""

    def __init__(self, deployment: Deployment, hostname: str = "worker@host") -> None:
        self.app = deployment.app
        self.hostname = hostname
        self.timer = Timer()  # type: ignore[no-untyped-call]  # kombu ships no types

    def turn(self) -> None:
        """What the event loop does now and then: call what is due."""
        for _, entry in iter(self.timer):
            if entry is None:
                return
            entry()


@pytest.fixture
def deployment(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str
) -> Iterator[Deployment]:
    monkeypatch.setenv("NX_DATABASE_URL", database_url)
    monkeypatch.setenv("NX_DATA_PATH", str(tmp_path / "data"))
    get_settings.cache_clear()
    yield deploy(cdcs(), NX_DATA_PATH=tmp_path / "data")
    get_settings.cache_clear()


def begin(deployment: Deployment, hostname: str = "worker@host") -> tuple[Presence, Consumer]:
    consumer = Consumer(deployment, hostname)
    step = Presence(consumer)
    step.start(consumer)
    consumer.turn()
    return step, consumer


def rows(deployment: Deployment) -> list[workers.WorkerRow]:
    with transaction(deployment.engine) as connection:
        return workers.running(connection)


def test_a_worker_says_what_it_reads_and_sees_as_soon_as_it_takes_messages(deployment: Deployment) -> None:
    begin(deployment)
    [row] = rows(deployment)
    assert row.name == "worker@host"
    assert set(row.queues) == {"export.cdcs", "exports", "builds"}
    assert abs(row.clock_offset_s) < 1
    assert set(row.stores) == {"NX_DATA_PATH", "NX_RECORDS_PATH"}
    assert all(row.stores.values())


def test_a_worker_with_queues_named_says_those(deployment: Deployment) -> None:
    deployment.app.amqp.queues.select(["export.cdcs"])
    begin(deployment)
    assert rows(deployment)[0].queues == ("export.cdcs",)


def test_a_worker_that_stops_takes_its_row_away_and_may_come_back(deployment: Deployment) -> None:
    step, consumer = begin(deployment)
    step.stop(consumer)
    step.shutdown(consumer)
    assert rows(deployment) == []
    step.start(consumer)
    consumer.turn()
    assert len(rows(deployment)) == 1


def test_a_worker_that_stops_leaves_the_row_of_the_next_one_of_its_name(deployment: Deployment) -> None:
    step, consumer = begin(deployment)
    begin(deployment)
    step.stop(consumer)
    assert len(rows(deployment)) == 1


def test_a_clock_that_is_off_is_measured_against_the_database(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr("nexus_tasks.monitoring.presence.time.time", lambda: right() - 3600)
    begin(deployment)
    assert rows(deployment)[0].clock_offset_s == pytest.approx(-3600, abs=1)


def test_workers_of_one_folder_agree_and_those_of_two_do_not(deployment: Deployment, tmp_path: Path) -> None:
    begin(deployment)
    begin(deployment, "second@host")
    first, second = rows(deployment)
    assert first.stores == second.stores
    (tmp_path / "elsewhere").mkdir()
    elsewhere = deployment.settings.model_copy(update={"NX_DATA_PATH": tmp_path / "elsewhere"})
    with transaction(deployment.engine) as connection:
        assert stores(connection, elsewhere) == {"NX_DATA_PATH": "", "NX_RECORDS_PATH": ""}
    assert list((tmp_path / "elsewhere").iterdir()) == [], "a share that is not mounted got a marker"


def test_a_folder_is_marked_once(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when needed"
    assert id_of(folder, may_mark=False) == ""
    first = id_of(folder, may_mark=True)
    assert first
    assert id_of(folder, may_mark=True) == id_of(folder, may_mark=False) == first
    (folder / MARKER).write_text("")
    assert id_of(folder, may_mark=True) is None, "another process is writing it"


def test_a_database_that_is_away_disturbs_no_worker(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closed_port: int
) -> None:
    step, consumer = begin(deployment)
    monkeypatch.setenv("NX_DATABASE_URL", f"postgresql://nexus:s3cret@127.0.0.1:{closed_port}/nexus")
    get_settings.cache_clear()
    calls: list[float] = []
    now = float(int(time.monotonic()))  # whole, so that steps add up exactly
    monkeypatch.setattr("nexus_tasks.monitoring.presence.time.monotonic", lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(60):  # half an hour
            before = step._not_before
            step._speak(consumer)
            if step._not_before != before:
                calls.append(now)
            now += INTERVAL_S
    waits = [later - earlier for earlier, later in pairwise(calls)]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_INTERVAL_S
    warnings = [record for record in caplog.records if record.name == "nexus_tasks.monitoring.presence"]
    assert len(warnings) == 1
    assert "s3cret" not in caplog.text
    step.stop(consumer)  # does not wait for the database either


def test_a_database_that_answers_too_late_is_given_up(deployment: Deployment, database_url: str) -> None:
    begin(deployment)
    with engine_for(database_url).begin() as locked:
        locked.execute(text("LOCK TABLE worker IN ACCESS EXCLUSIVE MODE"))
        assert fastest(lambda: begin(deployment), enough=4) < 4


def test_the_consumer_of_a_worker_has_the_step(deployment: Deployment) -> None:
    steps: set[Any] = deployment.app.steps["consumer"]
    assert Presence in steps
