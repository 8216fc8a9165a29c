"""Celery's processes as an operator would start them: worker, beat and Flower, with the settings of a sandbox."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import requests

from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.ports import free_port

WORKER_DEADLINE_S = 60  # a cold start imports everything once

Pool = Literal["prefork", "threads"]  # the pools that are supported


def worker(
    folder: Path,
    environment: Mapping[str, str],
    *,
    name: str = "worker",
    concurrency: int = 4,
    pool: Pool = "prefork",
    queues: Sequence[str] = (),
) -> ManagedProcess:
    """A worker for these queues, for all if none is named; ready when Celery says so.

    `concurrency` counts the processes of the pool, or its threads.
    """
    arguments = ["worker", "--hostname", f"{name}@%h", "--loglevel", "INFO"]
    arguments += ["--pool", pool, "--concurrency", str(concurrency)]
    arguments += ["-Q", ",".join(queues)] if queues else []
    process = _celery(name, folder, environment, arguments, deadline=WORKER_DEADLINE_S)
    process.ready = lambda: " ready." in process.logs_since_start()
    return process


def beat(folder: Path, environment: Mapping[str, str]) -> ManagedProcess:
    """The clock that dispatches every few seconds; its schedule file stands in the folder."""
    schedule = folder / "beat" / "schedule"
    return _celery("beat", folder, environment, ["beat", "--schedule", str(schedule), "--loglevel", "INFO"])


def flower(folder: Path, environment: Mapping[str, str]) -> tuple[ManagedProcess, str]:
    """Flower on loopback, and its address. For looking at a sandbox only: it asks for no password."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["flower", "--address=127.0.0.1", f"--port={port}"]
    process = _celery("flower", folder, environment, arguments, deadline=WORKER_DEADLINE_S)
    process.ready = lambda: _answers(f"{url}/healthcheck")
    return process, url


def _celery(
    name: str, folder: Path, environment: Mapping[str, str], arguments: list[str], deadline: float = 30
) -> ManagedProcess:
    command = [sys.executable, "-m", "celery", "-A", "nexus_tasks", *arguments]
    return ManagedProcess(name, command, folder / name, env=dict(environment), deadline=deadline)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False
