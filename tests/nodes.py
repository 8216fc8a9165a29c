"""pytest-celery's nodes as plain processes instead of containers: a Valkey for broker or results, and a Celery worker.

pytest-celery accepts any object as a node's container that has `name`, `id`, `status`, `celeryconfig`, `ready`, `logs`,
`kill`, `reload`, `restart` and `teardown`; for a worker also `version`, `log_level`, `worker_name` and `worker_queue`.
"""

import importlib.metadata
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any

from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestWorker

from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.valkey import EmbeddedValkey

WORKER_DEADLINE = 60.0  # seconds until a worker must be ready
WORKER_GRACE = 20.0  # seconds that a worker gets to finish its tasks
REPOSITORY = Path(__file__).parent.parent


class ProcessContainer:
    """What pytest-celery calls on a container, for a program that has been started already."""

    def __init__(self, process: ManagedProcess) -> None:
        self.process = process
        self.name = process.name
        self.id = uuid.uuid4().hex

    @property
    def status(self) -> str:
        return "running" if self.process.is_running() else "exited"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {}

    def ready(self) -> bool:
        """Whether it runs: it was waited for when it was started."""
        return self.process.is_running()

    def logs(self) -> str:
        return self.process.logs()

    def kill(self, signal: int | str = "SIGKILL") -> None:
        """SIGKILL takes the children along, as it does in a container; other signals go to the program alone."""
        number = Signals[signal] if isinstance(signal, str) else signal
        if number == SIGKILL:
            self.process.kill()
        else:
            self.process.send_signal(number)

    def reload(self) -> None:
        """Nothing is cached here."""

    def restart(self, timeout: float | None = None) -> None:  # noqa: ARG002  pytest-celery passes it
        """Stop it (if it runs), within its own grace, and start it again."""
        self.process.restart()

    def teardown(self) -> None:
        self.process.stop()


class ValkeyContainer(ProcessContainer):
    def __init__(self, server: EmbeddedValkey) -> None:
        super().__init__(server.process)
        self.server = server

    @property
    def celeryconfig(self) -> dict[str, Any]:
        url = self.server.url
        return {"url": url, "host_url": url, "hostname": "127.0.0.1", "port": self.server.port, "vhost": "0"}


class WorkerContainer(ProcessContainer):
    """A worker whose node name is `name@id`, as pytest-celery expects it."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        app: str,
        queues: Sequence[str],
        pool: str,
        concurrency: int,
        env: Mapping[str, str] | None,
        log_level: str,
        options: Sequence[str],
    ) -> None:
        node_id = uuid.uuid4().hex
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@{node_id[:12]}"]
        command += ["-P", pool, "-c", str(concurrency), "-l", log_level]
        command += ["-Q", ",".join(queues)] if queues else []
        process = ManagedProcess(
            name,
            [*command, *options],
            folder,
            env={"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPOSITORY), **(env or {})},
            ready=lambda: f"{name}@{node_id[:12]} ready." in process.logs_since_start(),
            deadline=WORKER_DEADLINE,
            grace=WORKER_GRACE,
        )
        super().__init__(process)
        self.id = node_id
        self._queues = queues
        self._log_level = log_level

    def version(self) -> str:
        return importlib.metadata.version("celery")

    def log_level(self) -> str:
        return self._log_level

    def worker_name(self) -> str:
        return self.name

    def worker_queue(self) -> str:
        """The first one: where pytest-celery sends its ping task."""
        return self._queues[0] if self._queues else "celery"


def valkey_broker(folder: Path) -> CeleryTestBroker:
    """A broker of its own, which can be killed and restarted; whoever asked for it calls `teardown()`."""
    return CeleryTestBroker(_started_valkey(folder))


def valkey_backend(folder: Path) -> CeleryTestBackend:
    """A result backend of its own, which can be killed and restarted; whoever asked for it calls `teardown()`."""
    return CeleryTestBackend(_started_valkey(folder))


def worker(
    folder: Path,
    celery_app: Any,
    *,
    name: str = "worker",
    app: str = "nexus_tasks",
    queues: Sequence[str] = (),
    pool: str = "prefork",
    concurrency: int = 2,
    env: Mapping[str, str] | None = None,
    log_level: str = "INFO",
    options: Sequence[str] = (),
) -> CeleryTestWorker:
    """A ready worker, as `celery -A app worker` with these options; without queues it takes what the app gives it.

    `celery_app` is the app that the test itself uses. Whoever asked for the worker calls `teardown()`.
    """
    container = WorkerContainer(
        name,
        folder,
        app=app,
        queues=queues,
        pool=pool,
        concurrency=concurrency,
        env=env,
        log_level=log_level,
        options=options,
    )
    container.process.start()
    return CeleryTestWorker(container, celery_app)


def _started_valkey(folder: Path) -> ValkeyContainer:
    server = EmbeddedValkey(folder)
    server.start()
    return ValkeyContainer(server)
