"""The floor: the same canvas and the same six calls, with as few transactions as the promises need.

It shows what this project's engine could cost at best with Celery, psycopg and requests: an attempt reads its rows in
the transaction that takes the lease, commits one intent before each creating call, which also stores what the call
before has made, and ends in one transaction; `finalize` reconciles in one; many records are planned together. It has
no retries, no circuit breaker, no rescue and no look-ups: a yardstick for the benchmark, of no use to anybody else.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from celery import Celery, chain, group
from celery.canvas import Signature
from psycopg.types.json import Jsonb

from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.managed_process import ManagedProcess
from tests.benchmarks import six_calls
from tests.benchmarks.contender import LONGEST_S, POLL_S, NotExportedError, Run
from tests.benchmarks.figures import FLOOR
from tests.benchmarks.record import Record
from tests.benchmarks.servers import Servers
from tests.benchmarks.services import ROOT, Services
from tests.benchmarks.usage import Memory, Processor, memory

DATABASE, BROKER, URLS = "BENCH_FLOOR_DATABASE", "BENCH_FLOOR_BROKER", "BENCH_FLOOR_URLS"  # environment of the worker
LEASE = "interval '90 seconds'"
PLANNED_TOGETHER = 16  # records
NO_RESULTS = "cache+memory://"  # of a process that waits for none
START_S = 60  # seconds until the worker must be ready
QUEUES = (*(f"export.{name}" for name in six_calls.CALLS), "exports")

SCHEMA = """
CREATE TABLE record (id bigserial PRIMARY KEY, session text NOT NULL, xml text NOT NULL);
CREATE TABLE session_log (
    id bigserial PRIMARY KEY, record_id bigint NOT NULL, record_status text NOT NULL);
CREATE TABLE destination (name text PRIMARY KEY, failing integer NOT NULL DEFAULT 0);
CREATE TABLE run (
    id bigserial PRIMARY KEY, record_id bigint NOT NULL, state text NOT NULL DEFAULT 'open', expected_by timestamptz);
CREATE TABLE delivery (
    id bigserial PRIMARY KEY, record_id bigint NOT NULL, destination text NOT NULL,
    state text NOT NULL DEFAULT 'pending', remote jsonb NOT NULL DEFAULT '{}', succeeded_at timestamptz);
CREATE TABLE attempt (
    id bigserial PRIMARY KEY, run_id bigint NOT NULL, delivery_id bigint NOT NULL,
    state text NOT NULL DEFAULT 'planned', tries integer NOT NULL DEFAULT 0, lease timestamptz, ended_at timestamptz);
CREATE TABLE upload_log (
    id bigserial PRIMARY KEY, session text NOT NULL, destination text NOT NULL, success integer NOT NULL,
    at timestamptz NOT NULL);
CREATE INDEX ON session_log (record_id);
CREATE INDEX ON delivery (record_id);
CREATE INDEX ON run (record_id) WHERE state = 'open';
CREATE INDEX ON attempt (run_id);
"""

# --- hand-over and planning

ADD_RECORD = "INSERT INTO record (session, xml) VALUES (%s, %s) RETURNING id"
ADD_SESSION = "INSERT INTO session_log (record_id, record_status) VALUES (%s, 'BUILT_NOT_EXPORTED')"
ADD_DELIVERIES = "INSERT INTO delivery (record_id, destination) SELECT %s, unnest(%s::text[]) RETURNING id, destination"
OPEN_RUN = f"INSERT INTO run (record_id, expected_by) VALUES (%s, now() + {LEASE}) RETURNING id"
ADD_ATTEMPTS = "INSERT INTO attempt (run_id, delivery_id) SELECT %s, unnest(%s::bigint[]) RETURNING id, delivery_id"

# --- one attempt

START = f"""
WITH this AS (
    UPDATE attempt SET state = 'started', lease = now() + {LEASE}, tries = tries + 1
    WHERE id = %s AND state = 'planned' RETURNING delivery_id, run_id),
expected AS (
    UPDATE run SET expected_by = now() + {LEASE} WHERE id = (SELECT run_id FROM this))
SELECT delivery.remote, record.session, record.xml, destination.failing,
       (SELECT jsonb_object_agg(other.destination, other.remote) FROM delivery AS other
        WHERE other.record_id = delivery.record_id)
FROM this
JOIN delivery ON delivery.id = this.delivery_id
JOIN record ON record.id = delivery.record_id
JOIN destination ON destination.name = delivery.destination
"""
INTEND = f"""
WITH held AS (
    UPDATE attempt SET lease = now() + {LEASE} WHERE id = %s AND state = 'started' AND lease > now()
    RETURNING delivery_id)
UPDATE delivery SET remote = remote || %s WHERE id = (SELECT delivery_id FROM held) RETURNING id
"""
FINISH = """
WITH this AS (
    UPDATE attempt SET state = 'succeeded', ended_at = now(), lease = NULL WHERE id = %s AND state = 'started'
    RETURNING delivery_id)
UPDATE delivery SET remote = remote || %s, state = 'succeeded', succeeded_at = now()
WHERE id = (SELECT delivery_id FROM this) RETURNING id
"""

# --- reconcile

LOCK_RECORD = "SELECT session FROM record WHERE id = %s FOR UPDATE"
CLOSE_RUN = """
WITH closed AS (UPDATE run SET state = 'closed' WHERE record_id = %s AND state = 'open' RETURNING id)
INSERT INTO upload_log (session, destination, success, at)
SELECT %s, delivery.destination, 1, now()
FROM attempt JOIN delivery ON delivery.id = attempt.delivery_id WHERE attempt.run_id IN (SELECT id FROM closed)
"""
STATES = "SELECT destination, state, remote FROM delivery WHERE record_id = %s"
COMPLETE = """
UPDATE session_log SET record_status = 'COMPLETED' WHERE record_id = %s AND record_status <> 'COMPLETED'
"""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_of_thread = threading.local()


class LeaseLostError(Exception):
    """Somebody else has the delivery."""


def create_app(broker: str, backend: str) -> Celery:
    """The same settings that keep this project's messages, and no others."""
    made = Celery("tests.benchmarks.floor", broker=broker, backend=backend, set_as_current=False)
    made.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        task_send_sent_event=False,
        task_track_started=False,
        result_extended=False,
        broker_connection_retry_on_startup=True,
        timezone="UTC",
        task_default_queue="exports",
        task_routes=(_route,),
    )
    return made


def _route(name: str, *_: Any, **__: Any) -> dict[str, str]:
    return {"queue": name if name in QUEUES else "exports"}


_broker = os.environ.get(BROKER, "memory://")
app = create_app(_broker, _broker if BROKER in os.environ else NO_RESULTS)


def task(name: str) -> Callable[[_Function], _Function]:
    """Celery's decorator, which has no types."""
    decorator: Callable[[_Function], _Function] = app.task(name=name, shared=False)
    return decorator


def database() -> psycopg.Connection:
    """One connection for each thread; every statement is prepared at its first use."""
    if not hasattr(_of_thread, "connection"):
        _of_thread.connection = psycopg.connect(os.environ[DATABASE], prepare_threshold=0)
    found: psycopg.Connection = _of_thread.connection
    return found


def export(destination: str, attempt: int) -> dict[str, Any]:
    """One attempt: start, an intent before each call, finish."""
    connection = database()
    url = dict(zip(six_calls.CALLS, os.environ[URLS].split(), strict=True))[destination]
    with connection.transaction():
        if connection.execute(START, (attempt,)).fetchone() is None:
            raise LeaseLostError(attempt)
    known: dict[str, Any] = {}
    for number, call in enumerate(six_calls.CALLS[destination]):
        step = f"step {number}"
        with connection.transaction():
            intent = Jsonb({**known, step: {"intended": time.time()}})
            if connection.execute(INTEND, (attempt, intent)).fetchone() is None:
                raise LeaseLostError(attempt)
        known[step] = {"id": six_calls.make(call, url)}
    with connection.transaction():
        if connection.execute(FINISH, (attempt, Jsonb(known))).fetchone() is None:
            raise LeaseLostError(attempt)
    return {"destination": destination, "state": "succeeded"}


@task("export.cdcs")
def export_cdcs(*, attempt: int) -> dict[str, Any]:
    """The first of the chain."""
    return export("cdcs", attempt)


@task("export.elabftw")
def export_elabftw(_previous: Any, *, attempt: int) -> dict[str, Any]:
    """Beside LabArchives, after CDCS."""
    return export("elabftw", attempt)


@task("export.labarchives")
def export_labarchives(_previous: Any, *, attempt: int) -> dict[str, Any]:
    """Beside eLabFTW, after CDCS."""
    return export("labarchives", attempt)


@task("finalize")
def finalize(_results: Any, *, record: int) -> None:
    """Reconcile: close the run, write the upload log, complete the session."""
    connection = database()
    with connection.transaction():
        [session] = connection.execute(LOCK_RECORD, (record,)).fetchone() or [""]
        connection.execute(CLOSE_RUN, (record, session))
        states = connection.execute(STATES, (record,)).fetchall()
        if all(state == "succeeded" for _, state, _ in states):
            connection.execute(COMPLETE, (record,))


def canvas(sender: Celery, record: int, attempts: dict[str, int]) -> Signature:
    """`chain(export.cdcs, chord(group(export.elabftw, export.labarchives), finalize))`."""
    first, *others = (
        sender.signature(f"export.{name}", kwargs={"attempt": attempts[name]}) for name in six_calls.CALLS
    )
    return chain(first, group(others), sender.signature("finalize", kwargs={"record": record}))


class Floor:
    """The floor as a contender: servers of its own, one worker; a context manager."""

    name = FLOOR

    def __init__(self, folder: Path, services: Services, postgres_options: Mapping[str, str] | None = None) -> None:
        self.servers = Servers(folder, postgres_options)
        self._folder = folder
        self._services = services
        self._parts = ExitStack()
        self._worker: ManagedProcess | None = None
        self._sender: Celery | None = None
        self._starts = 0

    def __enter__(self) -> Self:
        self._parts.enter_context(Lifeline(self._folder))
        self._parts.enter_context(self.servers)
        self._parts.callback(self.stop_workers)
        self._sender = create_app(self.servers.valkey.url, NO_RESULTS)  # nobody waits for a result
        with psycopg.connect(self.servers.postgres.url) as connection:
            connection.execute(SCHEMA)
            connection.execute("INSERT INTO destination (name) SELECT unnest(%s::text[])", (list(six_calls.CALLS),))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._parts.close()

    def start_workers(self, concurrency: int, pool: str = "prefork") -> None:
        """One worker for all queues, in the place of the one before."""
        self.stop_workers()
        self._starts += 1
        name = f"worker{self._starts}"
        urls = " ".join(self._services.urls[destination] for destination in six_calls.CALLS)
        worker = ManagedProcess(
            name,
            self._command(concurrency, pool),
            self._folder / name,
            cwd=ROOT,
            env={DATABASE: self.servers.postgres.url, BROKER: self.servers.valkey.url, URLS: urls},
            ready=lambda: " ready." in worker.logs_since_start(),
            deadline=START_S,
        )
        worker.start()
        self._worker = worker

    def stop_workers(self) -> None:
        """Stop the worker; nothing happens if none runs."""
        if self._worker is not None:
            self._worker.stop()
        self._worker = None

    def export(self, records: list[Record]) -> Run:
        """See `Contender`; one commit for each record, as a builder makes it."""
        before, started = self.processor(), time.perf_counter()
        ids = self._hand_over(records)
        while True:
            [(done,)] = self.servers.ask(
                "SELECT count(*) FROM session_log WHERE record_status = 'COMPLETED' AND record_id >= %(first)s",
                {"first": ids[0]},
            )
            if done >= len(records):
                break
            if time.perf_counter() - started > LONGEST_S:
                raise NotExportedError(f"The floor has exported {done} of {len(records)} after {LONGEST_S} s.")
            time.sleep(POLL_S)
        seconds = time.perf_counter() - started
        return Run(len(records), seconds, self.processor() - before)

    def processor(self) -> Processor:
        """Of worker, PostgreSQL and broker, since they were started."""
        assert self._worker is not None, "start_workers comes first"
        return self.servers.processor(self._worker.pid)

    def memory(self) -> Memory:
        """Of the worker and its processes."""
        assert self._worker is not None, "start_workers comes first"
        return memory(self._worker.pid)

    def _hand_over(self, records: Sequence[Record]) -> list[int]:
        assert self._sender is not None
        added: list[tuple[int, dict[int, str]]] = []
        with psycopg.connect(self.servers.postgres.url, autocommit=True, prepare_threshold=0) as connection:
            for record in records:
                with connection.transaction():
                    [record_id] = connection.execute(ADD_RECORD, (record.session, "a path")).fetchone() or [0]
                    connection.execute(ADD_SESSION, (record_id,))
                    deliveries = connection.execute(ADD_DELIVERIES, (record_id, list(six_calls.CALLS)))
                    added.append((record_id, dict(deliveries.fetchall())))
            for first in range(0, len(added), PLANNED_TOGETHER):
                planned = []
                with connection.transaction():
                    for record_id, names in added[first : first + PLANNED_TOGETHER]:
                        [run] = connection.execute(OPEN_RUN, (record_id,)).fetchone() or [0]
                        attempts = connection.execute(ADD_ATTEMPTS, (run, list(names)))
                        planned.append((record_id, {names[delivery]: attempt for attempt, delivery in attempts}))
                for record_id, attempts_by_name in planned:
                    canvas(self._sender, record_id, attempts_by_name).apply_async()
        return [record_id for record_id, _ in added]

    def _command(self, concurrency: int, pool: str) -> list[str]:
        worker = ["worker", "--concurrency", str(concurrency), "--pool", pool, "--loglevel", "INFO", "-Q"]
        return [sys.executable, "-m", "celery", "-A", "tests.benchmarks.floor", *worker, ",".join(QUEUES)]
