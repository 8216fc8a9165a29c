"""A whole installation with default settings for a benchmark: embedded servers, stand-ins, workers and beat."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from nexus_tasks.db import migrate
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import enter
from nexus_tasks.sandbox import celery_processes
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.sandbox import Sandbox


@dataclass(frozen=True)
class Running:
    """What runs; `addresses` are those of the stand-ins, also of one that the settings leave out."""

    deployment: Deployment
    workers: list[ManagedProcess]
    addresses: dict[str, str]


@contextmanager
def running(
    folder: Path, settings: Mapping[str, str], *, workers: Sequence[Sequence[str]], concurrency: int
) -> Iterator[Running]:
    """Start it in `folder`, with these settings beside those that lead to its parts; stopped at the end.

    `workers` names the queues of each worker; one that names none takes all.
    """
    sandbox = Sandbox.fresh(folder)
    with ExitStack() as parts:
        parts.enter_context(patch.dict(os.environ))  # what is set for this one must not be there for the next one
        parts.enter_context(Lifeline(sandbox.folder))
        parts.callback(sandbox.stop)
        sandbox.start()
        migrate.upgrade(sandbox.postgres.url)
        environment = sandbox.environment()
        addresses = {name: environment[f"NX_{name.upper()}_URL"] for name in ("cdcs", "elabftw", "labarchives")}
        environment |= settings
        started = [
            celery_processes.worker(
                sandbox.folder, environment, name=f"worker{number}", concurrency=concurrency, queues=queues
            )
            for number, queues in enumerate(workers)
        ]
        for process in (*started, celery_processes.beat(sandbox.folder, environment)):
            parts.callback(process.stop)
            process.start()
        yield Running(enter(environment), started, addresses)
