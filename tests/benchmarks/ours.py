"""This project as a contender: a whole installation with real workers and beat, and the stub for its services.

Whatever of the package's own modules the harness needs is imported here and nowhere else in it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from unittest.mock import patch

from nexus_tasks.config import Settings
from nexus_tasks.db import migrate
from nexus_tasks.delivery.export_records import RecordToExport, export_records
from nexus_tasks.delivery.planner import dispatch
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import enter
from nexus_tasks.sandbox import celery_processes
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.managed_process import ManagedProcess
from tests.benchmarks.contender import LONGEST_S, POLL_S, NotExportedError, Run
from tests.benchmarks.figures import OURS
from tests.benchmarks.record import INSTRUMENT, USER, ZONE, Record, write_previews
from tests.benchmarks.servers import Servers
from tests.benchmarks.services import Services
from tests.benchmarks.usage import Memory, Processor, memory

PREFORK, THREADS = "prefork", "threads"
LEAST_IN_FLIGHT = 16  # records at a destination where nothing paces them

_COMPLETED = """
SELECT count(DISTINCT session_identifier) FROM session_log
WHERE record_status = 'COMPLETED' AND session_identifier LIKE %(prefix)s || '%%'
"""
_FAILED = "SELECT destination_name, error_message FROM upload_log WHERE success = 0 LIMIT 3"


def not_paced(concurrency: int) -> dict[str, str]:
    """The settings with which no destination waits for another record, not even LabArchives."""
    most = max(LEAST_IN_FLIGHT, concurrency)
    # the notebooks' attempts are in flight while their run is still at CDCS
    return {"NX_WINDOWS": f"cdcs={most},elabftw={2 * most},labarchives={2 * most}"}


class Installation:
    """One installation in a folder; a context manager. `start_workers` comes before the first export."""

    name = OURS

    def __init__(
        self,
        folder: Path,
        services: Services,
        *,
        postgres_options: Mapping[str, str] | None = None,
        with_beat: bool = True,
    ) -> None:
        self.folder = folder
        self.servers = Servers(folder, postgres_options)
        self._services = services
        self._with_beat = with_beat
        self._parts = ExitStack()
        self._deployment: Deployment | None = None
        self._worker: ManagedProcess | None = None
        self._beat: ManagedProcess | None = None
        self._starts = 0

    def __enter__(self) -> Self:
        self._parts.enter_context(patch.dict(os.environ))  # `enter` changes it
        self._parts.enter_context(Lifeline(self.folder))
        self._parts.enter_context(self.servers)
        self._parts.callback(self.stop_workers)
        migrate.upgrade(self.servers.postgres.url)
        write_previews(self.folder / "data" / "previews")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._parts.close()

    @property
    def deployment(self) -> Deployment:
        """As the harness's own process takes part in it."""
        assert self._deployment is not None, "start_workers comes first"
        return self._deployment

    @property
    def worker_pid(self) -> int:
        """Of the worker's main process."""
        assert self._worker is not None, "start_workers comes first"
        return self._worker.pid

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """All `NX_*` settings: those that lead to the parts, `settings`, and nothing that this machine has set."""
        return {
            **dict.fromkeys(Settings.model_fields, ""),
            "NX_DATABASE_URL": self.servers.postgres.url,
            "NX_BROKER_URL": self.servers.valkey.url,
            "NX_DATA_PATH": str(self.folder / "data"),
            "NX_INSTRUMENT_DATA_PATH": str(self.folder / "instruments"),
            **self._services.settings(),
            **settings,
        }

    def configure(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Have the harness's own process work with these settings; returns the environment that says them."""
        environment = self.environment(settings)
        self._deployment = enter(environment)
        return environment

    def start_workers(self, concurrency: int, settings: Mapping[str, str], pool: str = PREFORK) -> None:
        """One worker for all queues, in the place of the one before, and beat."""
        self.stop_workers()
        self._starts += 1
        environment = self.configure(settings)
        name = f"worker{self._starts}"
        self._worker = celery_processes.worker(self.folder, environment, name=name, concurrency=concurrency)
        self._worker.command += ["--pool", pool]
        self._worker.start()
        if self._with_beat:
            self._beat = celery_processes.beat(self.folder, environment)
            self._beat.start()

    def stop_workers(self) -> None:
        """Stop the worker and beat; nothing happens if none runs."""
        for process in (self._beat, self._worker):
            if process is not None:
                process.stop()
        self._beat = self._worker = None

    def hand_over(self, records: list[Record]) -> float:
        """Hand records over in one call; the seconds that it took."""
        to_export = [
            RecordToExport(
                session_identifier=record.session,
                instrument_pid=INSTRUMENT,
                dt_from=record.start,
                dt_to=record.end,
                timezone=ZONE,
                user=USER,
                xml=record.xml,
                activities=[
                    {"files": list(files), "previews": list(previews)}
                    for files, previews in zip(record.files, record.previews, strict=True)
                ],
            )
            for record in records
        ]
        started = time.perf_counter()
        export_records(to_export, self.deployment)
        return time.perf_counter() - started

    def export(self, records: list[Record], poll_s: float = POLL_S) -> Run:
        """See `Contender`."""
        before, started = self.processor(), time.perf_counter()
        self.hand_over(records)
        self.wait(records, started, poll_s)
        seconds = time.perf_counter() - started
        return Run(len(records), seconds, self.processor() - before)

    def wait(self, records: list[Record], started: float, poll_s: float = POLL_S) -> None:
        """Until all their sessions are COMPLETED."""
        while True:
            [(done,)] = self.servers.ask(_COMPLETED, {"prefix": records[0].batch})
            if done >= len(records):
                return
            if time.perf_counter() - started > LONGEST_S:
                raise NotExportedError(f"{done} of {len(records)} after {LONGEST_S} s: {self.servers.ask(_FAILED)}")
            time.sleep(poll_s)

    def command(self, *arguments: str) -> None:
        """Run `nexus-tasks` with these arguments; raises `CalledProcessError`."""
        command = [str(Path(sys.executable).with_name("nexus-tasks")), *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=LONGEST_S)

    def plan(self) -> float:
        """Have the planner look once for what can go out; the seconds that it took."""
        started = time.perf_counter()
        dispatch(self.deployment)
        return time.perf_counter() - started

    def processor(self) -> Processor:
        """Of worker, PostgreSQL and broker, since they were started."""
        return self.servers.processor(self.worker_pid)

    def memory(self) -> Memory:
        """Of the worker and its processes."""
        return memory(self.worker_pid)
