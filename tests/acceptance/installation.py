"""One whole installation for acceptance tests: database, broker, stand-ins, real workers and beat, its command line.

The test's own process takes part in it with a `Deployment` made from the same settings.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker
from sqlalchemy import text

from nexus_tasks.builder.record_xml import RecordContent, write_record
from nexus_tasks.celery import get_app
from nexus_tasks.config import get_settings
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.delivery.export_records import HandedOver, RecordToExport, export_records
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import current_deployment
from nexus_tasks.exporters.registry import get_registry
from nexus_tasks.sandbox import celery_processes
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.process_error import ProcessError
from nexus_tasks.sandbox.services.standins import StandIns
from nexus_tasks.sandbox.valkey import EmbeddedValkey
from nexus_tasks.sandbox.waiting import wait_until
from nexus_tasks.states import Strategy
from tests.acceptance.rabbitmq import RabbitMq
from tests.nodes import worker

COMMAND = Path(sys.executable).with_name("nexus-tasks")
COMMAND_DEADLINE = 120.0  # seconds
INSTRUMENT = "Test-SEM-01"
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
END = START + timedelta(hours=1)

# Short, so that a test sees in seconds what takes minutes in a lab; each in seconds unless it counts something.
SHORT_SETTINGS = {
    "NX_TRIES": "2",
    "NX_TRY_BACKOFF": "0.1",
    "NX_RETRY_DELAYS": "0.3",
    "NX_DISPATCH_INTERVAL": "0.3",
    "NX_CALL_DEADLINE": "2",
    "NX_LEASE_MARGIN": "5",
    "NX_LOOKUP_GRACE": "0.2",
    "NX_PAUSE_AFTER": "1000",  # records: the tests make services fail all the time
    "NX_PAUSE_FIRST": "0.5",
    "NX_PAUSE_LONGEST": "0.5",
}


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        """The one JSON document that it printed."""
        return json.loads(self.output)

    @property
    def error_lines(self) -> list[str]:
        return self.errors.splitlines()


@dataclass(frozen=True)
class Delivered:
    """What the rows say of one session: runs by number, deliveries and upload log by destination."""

    runs: list[tuple[int, str]]
    deliveries: dict[str, str]
    status: str
    log: list[tuple[str, int]]  # in alphabetical order: notebooks answer side by side


class Installation:
    """`settings` are added to those that lead to the parts.

    Valkey is the result backend, and the broker too where no other is given.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        stand_ins: StandIns,
        settings: Mapping[str, str] | None = None,
        rabbitmq: RabbitMq | None = None,
    ) -> None:
        self.folder = folder
        self.stand_ins = stand_ins
        self.rabbitmq = rabbitmq
        self.virtual_host = folder.name  # of RabbitMQ
        self.valkey = EmbeddedValkey(folder / "valkey", append_only=False)
        self._parts = ExitStack()
        self._parts.enter_context(Lifeline(folder))  # what runs here ends with the test run, even if that is killed
        self._parts.enter_context(self.valkey)
        self.environment = {
            **SHORT_SETTINGS,
            "NX_DATABASE_URL": database_url,
            "NX_BROKER_URL": self.valkey.url,
            **self._other_broker(),
            "NX_INSTRUMENT_DATA_PATH": str(folder / "instruments"),
            "NX_DATA_PATH": str(folder / "data"),
            "NX_RECORDS_PATH": str(folder / "records"),
            "NX_LOG_PATH": str(folder / "logs"),
            **stand_ins.environment(),
            **(settings or {}),
        }
        self.workers: list[CeleryTestWorker] = []
        self.instruments.mkdir(parents=True)
        self.deployment = self._deployment()

    # --- where things are

    @property
    def instruments(self) -> Path:
        return self.folder / "instruments"

    @property
    def records(self) -> Path:
        return self.folder / "records"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This process works with the installation's settings, and forgets them afterwards."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            _forget()
            self.deployment.app.set_current()
            yield
        _forget()

    def _other_broker(self) -> dict[str, str]:
        if self.rabbitmq is None:
            return {}
        url = self.rabbitmq.add_virtual_host(self.virtual_host)
        return {"NX_BROKER_URL": url, "NX_RESULT_BACKEND_URL": self.valkey.url}

    def _deployment(self) -> Deployment:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            _forget()
            deployment = current_deployment()
            assert deployment.app.conf.broker_url  # it is made when it is asked for: now, from these settings
        _forget()
        return deployment

    # --- processes

    def start_worker(
        self, name: str = "worker", *, concurrency: int = 4, pool: str = "prefork", **settings: str
    ) -> CeleryTestWorker:
        """A worker for all queues, as `celery -A nexus_tasks worker` without `-Q`."""
        node = worker(
            self.folder / name,
            self.deployment.app,
            name=name,
            concurrency=concurrency,
            pool=pool,
            env={**self.environment, **settings},
            options=["--without-gossip", "--without-mingle"],
        )
        self._parts.callback(self.stop_worker, node)
        self.workers.append(node)
        return node

    def stop_worker(self, node: CeleryTestWorker) -> None:
        """At once: leaving in an orderly way takes seconds."""
        node.kill()
        node.teardown()

    @contextmanager
    def frozen_worker(self) -> Iterator[None]:
        """Nothing is exported meanwhile; the worker holds no lock, so that others can go on."""
        process: ManagedProcess = self.workers[0].container.process
        working = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND client_addr IS NOT NULL AND state <> 'idle'"
        )
        process.suspend()
        try:
            while self.rows(working):
                process.resume()
                process.suspend()
            yield
        finally:
            process.resume()

    def start_beat(self) -> ManagedProcess:
        return self._parts.enter_context(celery_processes.beat(self.folder, self.environment))

    def start_flower(self, **settings: str) -> str:
        """Its address."""
        process, url = celery_processes.flower(self.folder, {**self.environment, **settings})
        self._parts.enter_context(process)
        return url

    def stop(self) -> None:
        self.deployment.app.close()
        self.deployment.engine.dispose()
        self._parts.close()

    # --- the command line

    def command(self, *arguments: str | Path, **settings: str) -> Finished:
        """`nexus-tasks` with these arguments, in a folder of its own."""
        return finish(self.begin(*arguments, **settings))

    def commands(self, *commands: Sequence[str | Path], **settings: str) -> list[Finished]:
        """Several at once."""
        return [finish(started) for started in [self.begin(*command, **settings) for command in commands]]

    def begin(self, *arguments: str | Path, **settings: str) -> "subprocess.Popen[str]":
        return begin(arguments, {**self.environment, **settings}, self.folder)

    # --- handing over

    def hand_over(
        self,
        session: str,
        *,
        strategy: Strategy = Strategy.ALL,
        activities: Sequence[dict[str, Any]] = (),
        user: str = "ann",
    ) -> HandedOver:
        """Give a record to the exporters from this process, as a builder does."""
        record = RecordToExport(
            session_identifier=session,
            instrument_pid=INSTRUMENT,
            dt_from=START,
            dt_to=END,
            timezone="UTC",
            user=user,
            xml=record_xml(session),
            activities=list(activities),
        )
        settings = self.deployment.settings.model_copy(update={"NX_EXPORT_STRATEGY": strategy})
        return export_records([record], replace(self.deployment, settings=settings))

    # --- what became of it

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with transaction(engine_for(self.environment["NX_DATABASE_URL"])) as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]

    def delivered(self, session: str) -> Delivered:
        runs = self.rows(
            "SELECT row_number() OVER (ORDER BY run.id), run.state FROM run JOIN record ON record.id = run.record_id "
            "WHERE session_identifier = :session ORDER BY run.id",
            session=session,
        )
        deliveries = self.rows(
            "SELECT destination, delivery.state FROM delivery JOIN record ON record.id = record_id "
            "WHERE session_identifier = :session",
            session=session,
        )
        log = self.rows(
            "SELECT destination_name, success FROM upload_log WHERE session_identifier = :session", session=session
        )
        [(status,)] = self.rows(
            "SELECT DISTINCT record_status FROM session_log WHERE session_identifier = :session", session=session
        )
        return Delivered(
            [(int(number), str(state)) for number, state in runs],
            {str(name): str(state) for name, state in deliveries},
            str(status),
            sorted((str(name), int(success)) for name, success in log),
        )

    def status(self, session: str) -> str:
        return self.delivered(session).status

    def why_not_done(self, session: str, destination: str) -> str | None:
        """Why a delivery is still to do after it was tried; None while that cannot be said."""
        found = self.rows(
            "SELECT delivery.error_message FROM delivery JOIN record ON record.id = record_id "
            "WHERE session_identifier = :session AND destination = :destination "
            "AND delivery.state IN ('pending', 'retrying') AND delivery.error_message IS NOT NULL",
            session=session,
            destination=destination,
        )
        return str(found[0][0]) if found else None

    def wait_until_settled(self, *sessions: str, seconds: float = 30) -> None:
        """Until nothing will happen to these sessions any more: no open run, no delivery that is due some time."""
        unsettled = (
            "SELECT 1 FROM record LEFT JOIN run ON run.record_id = record.id AND run.state = 'open' "
            "LEFT JOIN delivery ON delivery.record_id = record.id AND delivery.state IN ('pending', 'retrying') "
            "WHERE session_identifier = ANY(:sessions) AND (run.id IS NOT NULL OR delivery.id IS NOT NULL) LIMIT 1"
        )
        try:
            wait_until(lambda: not self.rows(unsettled, sessions=list(sessions)), seconds, "sessions to be settled")
        except ProcessError as error:
            told = "\n".join(f"{session}: {self.history(session)}" for session in sessions)
            raise AssertionError(f"{error}\n{told}\nDestinations: {self.rows('SELECT * FROM destination')}") from None

    def history(self, session: str) -> list[tuple[Any, ...]]:
        """Every attempt, for the message of a test that fails."""
        return self.rows(
            "SELECT run.id, run.state, destination, delivery.state, attempt.state, attempt.tries, attempt.started_at, "
            "attempt.ended_at, coalesce(attempt.error_message, delivery.error_message) "
            "FROM record JOIN delivery ON delivery.record_id = record.id "
            "LEFT JOIN attempt ON attempt.delivery_id = delivery.id LEFT JOIN run ON run.id = attempt.run_id "
            "WHERE session_identifier = :session ORDER BY run.id, attempt.id",
            session=session,
        )

    def wait_until_archived(self, session: str, seconds: float = 30) -> Path:
        """The document in the archive."""
        query = "SELECT document FROM record WHERE session_identifier = :session AND archived_at IS NOT NULL"
        wait_until(lambda: bool(self.rows(query, session=session)), seconds, f"{session} to be archived")
        return self.records / "uploaded" / str(self.rows(query, session=session)[0][0])


def begin(arguments: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> "subprocess.Popen[str]":
    """Start `nexus-tasks`."""
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", deadline: float = COMMAND_DEADLINE) -> Finished:
    """Wait for a command; one that takes too long is ended."""
    try:
        output, errors = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, output, errors)


def new_session() -> str:
    """An identifier that no other test uses."""
    return f"session-{uuid.uuid4().hex[:12]}"


def record_xml(session: str) -> bytes:
    """A valid record without files."""
    content = RecordContent(session, INSTRUMENT, "Test SEM", f"Record of {session}", "ann", START, END, ())
    return write_record(content)


def the_only_line(finished: Finished) -> str:
    """The one plain line on standard error of a command that failed as it should."""
    assert finished.status not in {0, None}, finished.output
    assert finished.status > 0, f"ended by a signal: {finished}"
    assert "Traceback" not in finished.errors + finished.output
    assert len(finished.error_lines) == 1, finished.errors
    return finished.error_lines[0]


def _forget() -> None:
    for remembered in (get_settings, get_registry, get_app):
        remembered.cache_clear()
