"""What the embedded servers have in common: a folder, a process, and a port that is chosen once and then kept."""

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.ports import free_port
from nexus_tasks.sandbox.process_error import ProcessError

PORT_TRIES = 3  # somebody else may take a free port before the server has it


class EmbeddedServer(ABC):
    """One server with its data in `folder`; the data stay when it stops, and the next `start()` finds them.

    `port` on 127.0.0.1 is chosen at the first start when not given, and then kept. A context manager.
    """

    title: str  # for messages

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self._port = port
        self._process: ManagedProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start the server; raises `ProcessError` with the end of its log."""

    @abstractmethod
    def _server(self, port: int) -> ManagedProcess:
        """The server's process, listening on that port."""

    @property
    def process(self) -> ManagedProcess:
        """The server, for its log and for faults; raises `ProcessError` before the first start."""
        if self._process is None:
            raise ProcessError(f"{self.title} was not started.")
        return self._process

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; raises `ProcessError` before the first start when none was given."""
        if self._port is None:
            raise ProcessError(f"{self.title} was not started.")
        return self._port

    def stop(self) -> None:
        """Stop the server; open connections are closed, what was stored stays."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL to the server and its children."""
        self.process.kill()

    def restart(self) -> None:
        """Stop it (if it runs) and start it again, on the same port."""
        self.stop()
        self.start()

    def _start_on_a_port(self) -> None:
        tries = PORT_TRIES if self._port is None else 1
        for left in reversed(range(tries)):
            port = self._port or free_port()
            self._process = self._server(port)
            try:
                self._process.start()
            except ProcessError:
                if not left or "in use" not in self._process.logs_since_start():
                    raise
            else:
                self._port = port
                break
