"""Starts and ends one program of the sandbox; used by the embedded servers, `celery_processes` and the tests.

Its pid file (`process_record`) lets others end it when the starter is gone; where processes must not outlive the
starter at all, a `Lifeline` watches it.
"""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from nexus_tasks.sandbox.process_error import ProcessError
from nexus_tasks.sandbox.process_record import KILL_DEADLINE, PID_FILE_SUFFIX, TOKEN_VARIABLE, ProcessRecord
from nexus_tasks.sandbox.waiting import POLL_INTERVAL, wait_until

START_DEADLINE = 30.0  # seconds until a program must be ready
STOP_GRACE = 10.0  # seconds between asking a program to stop and killing it
LOG_TAIL = 3000  # characters of the log that an error shows


class ManagedProcess:
    """One program, in a session of its own, with a pid file and a log file in `folder`.

    `ready` is asked again and again until it is true, `deadline` seconds at most; without it a program is ready once it
    has been started. `env` is added to this process's environment. `stop_signal` asks the program to stop; `grace`
    seconds later it is killed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
        deadline: float = START_DEADLINE,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace: float = STOP_GRACE,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.folder = folder.absolute()
        self.cwd = cwd
        self.env = dict(env or {})
        self.deadline = deadline
        self.log_file = self.folder / f"{name}.log"
        self.pid_file = self.folder / f"{name}{PID_FILE_SUFFIX}"
        self.ready = ready
        self._stop_signal = stop_signal
        self._grace = grace
        self._popen: subprocess.Popen[bytes] | None = None
        self._record: ProcessRecord | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        """Whether the program runs (a suspended one does)."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """The program's pid, also after it has ended; raises `ProcessError` if it was never started."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """How the program ended, as in `subprocess`; None while it runs or was never started."""
        return None if self._popen is None else self._popen.poll()

    def start(self) -> None:
        """Start the program and wait until it is ready.

        Raises `ProcessError` if it runs already (started by whomever), ends early or is not ready in time.
        """
        other = ProcessRecord.read(self.pid_file)
        if other is not None and other.leader() is not None:
            raise ProcessError(f"{self.name} already runs in {self.folder} (process {other.pid}): stop it first.")
        self.folder.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(8)
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._popen = subprocess.Popen(
                    self.command,
                    cwd=self.cwd or self.folder,
                    env={**os.environ, **self.env, TOKEN_VARIABLE: token},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessError(f"{self.name} cannot be started: {error}.") from error
        self._record = ProcessRecord.of_running(self.name, self._popen.pid, token, int(self._stop_signal), self._grace)
        try:
            self._record.write(self.pid_file)
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the program and its children, gently at first; nothing happens if it does not run."""
        if self._record is not None:
            self._record.end()
        self._bury()

    def kill(self) -> None:
        """SIGKILL to the program and its children; nothing happens if it does not run."""
        if self._record is not None:
            self._record.kill()
        self._bury()

    def restart(self) -> None:
        """Stop it (if it runs) and start it again, with the same command."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Freeze the program and its children where they are (SIGSTOP)."""
        self._started().suspend()

    def resume(self) -> None:
        """Let them go on (SIGCONT)."""
        self._started().resume()

    def send_signal(self, number: int) -> None:
        """Send a signal to the program alone, not to its children."""
        self._started().send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait until the program ends by itself; its return code. Raises `ProcessError` when the time is up."""
        self._started()
        wait_until(lambda: not self.is_running(), seconds, f"{self.name} to end")
        return self.returncode or 0

    def logs(self) -> str:
        """All that it has written, over all starts."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def logs_since_start(self) -> str:
        """What it has written since it was last started."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_bytes()[self._log_start :].decode("utf-8", errors="replace")

    def _started(self) -> ProcessRecord:
        if self._record is None:
            raise ProcessError(f"{self.name} was not started.")
        return self._record

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self.deadline
        while True:
            if not self.is_running():
                raise ProcessError(f"{self.name} ended with status {self.returncode}.{self._tail()}")
            if self.ready is None or self.ready():
                return
            if time.monotonic() > end:
                raise ProcessError(f"{self.name} was not ready after {self.deadline:.0f} s.{self._tail()}")
            time.sleep(POLL_INTERVAL)

    def _tail(self) -> str:
        text = self.logs_since_start().strip()
        return f" The end of {self.log_file}:\n{text[-LOG_TAIL:]}" if text else f" {self.log_file} is empty."

    def _bury(self) -> None:
        if self._popen is not None:
            self._popen.wait(KILL_DEADLINE)
        if self._record is not None and ProcessRecord.read(self.pid_file) == self._record:
            self.pid_file.unlink()
