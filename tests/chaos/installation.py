"""One scenario's processes, all real and all new: services, stand-ins, workers, beat and builders."""

import sys
from collections.abc import Mapping
from pathlib import Path

from nexus_tasks.db.migrate import upgrade
from nexus_tasks.sandbox import celery_processes
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.sandbox import Sandbox
from nexus_tasks.sandbox.services import client
from tests.chaos.audit_objects import Objects
from tests.chaos.records import DESTINATIONS
from tests.chaos.settings import SHORT_SETTINGS
from tests.chaos.supervisor import Supervised

REPOSITORY = Path(__file__).parents[2]
PLUGINS = Path(__file__).with_name("plugins")
WORKERS = 2
CONCURRENCY = 4  # child processes of a worker
START_DEADLINE_S = 90.0


class Installation:
    """PostgreSQL and Valkey keep their data when they are killed; workers and beats are started again.

    Nothing outlives this process: a lifeline ends what it has started, after a kill -9 too.
    """

    def __init__(self, folder: Path, *, beats: int = 1, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.absolute()
        self.sandbox = Sandbox.fresh(self.folder)
        self.copies = self.folder / "copies"  # what the plugin of the harness holds
        self._settings = dict(settings or {})
        self._beats = beats
        self._lifeline = Lifeline(self.folder)
        self.workers: list[Supervised] = []
        self.beats: list[Supervised] = []
        self.builders: list[ManagedProcess] = []

    @property
    def database_url(self) -> str:
        """The database."""
        return self.sandbox.postgres.url

    @property
    def urls(self) -> dict[str, str]:
        """Destination → address of its stand-in."""
        environment = self.sandbox.environment()
        return {name: environment[f"NX_{name.upper()}_URL"] for name in DESTINATIONS}

    def start(self) -> None:
        """Start everything but the builders."""
        self.sandbox.start()
        upgrade(self.database_url)
        environment = self._environment()
        for number in range(1, WORKERS + 1):
            name = f"worker{number}"
            process = celery_processes.worker(self.folder, environment, name=name, concurrency=CONCURRENCY)
            process.command += ["--without-mingle", "--without-gossip"]  # works a second sooner
            self.workers.append(Supervised(process))
        self.beats = [Supervised(self._beat(number, environment)) for number in range(1, self._beats + 1)]
        for supervised in (*self.workers, *self.beats):
            supervised.begin()
        for supervised in (*self.workers, *self.beats):
            supervised.wait_ready(START_DEADLINE_S)

    def start_builder(self, *, records: int, seconds: float, seed: int) -> None:
        """Start a builder that hands over so many records within so many seconds."""
        name = f"builder{len(self.builders) + 1}"
        command = [sys.executable, "-m", "tests.chaos.builder"]
        command += ["--records", str(records), "--seconds", str(seconds), "--seed", str(seed)]
        builder = ManagedProcess(name, command, self.folder / name, env=self._environment())
        builder.start()
        self.builders.append(builder)

    def objects(self) -> Objects:
        """All that the stand-ins and the plugin of the harness hold."""
        found = {name: client.objects(url, content=True) for name, url in self.urls.items()}
        copies = {file.name: file.read_bytes() for file in sorted(self.copies.glob("*.xml"))}
        return Objects(found["cdcs"], found["elabftw"], found["labarchives"], copies)

    def stop(self) -> None:
        """End everything, at once."""
        for supervised in (*self.workers, *self.beats):
            supervised.end()
        for builder in self.builders:
            builder.kill()
        self.sandbox.stop()
        self._lifeline.close()

    def _environment(self) -> dict[str, str]:
        return {
            **self.sandbox.environment(),
            **SHORT_SETTINGS,
            "PYTHONPATH": str(REPOSITORY),
            "CHAOS_COPIES": str(self.copies),
            **self._settings,
        }

    def _beat(self, number: int, environment: dict[str, str]) -> ManagedProcess:
        name = f"beat{number}"
        command = [sys.executable, "-m", "celery", "-A", "nexus_tasks", "beat", "--loglevel", "INFO"]
        return ManagedProcess(name, [*command, "--schedule", "schedule"], self.folder / name, env=environment)
