"""Starts and ends the sandbox's programs, and never ends anybody else's; used by `demo`, `sandbox` and the tests.

A process is known by its pid *and* its start time, both written to a pid file, because pids are given again to other
programs. What the pid files in a folder name can be ended by anybody who has the folder (`stop_stale`), so servers may
outlive their starter on purpose (`sandbox up`) or by accident (it was killed).

Where processes must not outlive the starter, a `Lifeline` watches it. `PR_SET_PDEATHSIG` is not used: it fires when the
*thread* that started the program ends, and setting it takes Python code between fork and exec, which threads make
unsafe.
"""

import contextlib
import json
import logging
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nexus_tasks.sandbox import SandboxNotInstalledError

try:
    import psutil
except ImportError as error:
    raise SandboxNotInstalledError("embedded servers") from error

logger = logging.getLogger(__name__)

START_DEADLINE = 30.0  # seconds until a program must be ready
STOP_GRACE = 10.0  # seconds between asking a program to stop and killing it
CHILDREN_GRACE = 2.0  # seconds that children left behind by their parent get to stop
KILL_DEADLINE = 10.0  # seconds until a killed process must be gone
POLL_INTERVAL = 0.02  # seconds between two looks at a condition
SAME_START = 1.0  # seconds that two readings of one start time may differ: the kernel's boot time is corrected
LOG_TAIL = 3000  # characters of the log that an error shows
PID_FILE_SUFFIX = ".pid.json"
TOKEN_VARIABLE = "NX_SANDBOX_PROCESS"  # noqa: S105  marks a program and its children as ours; not a secret
PORTS = range(10240, 32768)  # below the ephemeral ports of Linux and macOS


class ProcessError(Exception):
    """A program did not start, get ready or end; the message holds the end of its log."""


@dataclass(frozen=True)
class ProcessRecord:
    """What a pid file holds: enough to recognise a process, and to end it the way it wants to be ended."""

    name: str
    pid: int
    started: float  # seconds since the epoch, as psutil's create_time gives it
    token: str  # value of TOKEN_VARIABLE in its environment
    stop_signal: int
    grace: float  # seconds

    @classmethod
    def read(cls, pid_file: Path) -> Self | None:
        """The record in `pid_file`; None if there is no such file, or it is not one of ours."""
        try:
            return cls(**json.loads(pid_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            logger.warning("%s is not a pid file of the sandbox, left alone", pid_file)
            return None

    def write(self, pid_file: Path) -> None:
        """Store it so that a reader sees the whole of it or nothing."""
        partial = pid_file.with_name(pid_file.name + ".new")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.replace(pid_file)

    def leader(self) -> Any | None:
        """The process itself (`psutil.Process`), if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START
        except psutil.NoSuchProcess:
            return None
        return process if same and not _gone(process) else None

    def children(self) -> list[Any]:
        """Its descendants that run, also those whose parent has died: they keep its session and its environment."""
        leader = self.leader()
        found: set[Any] = set()
        if leader is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update(leader.children(recursive=True))
        for pid in psutil.pids():
            if pid == self.pid:
                continue
            with contextlib.suppress(psutil.Error, OSError):
                if os.getsid(pid) == self.pid:
                    process = psutil.Process(pid)
                    if process.environ().get(TOKEN_VARIABLE) == self.token:
                        found.add(process)
        return [process for process in found if not _gone(process)]

    def end(self) -> bool:
        """Ask the process to stop, kill it after its grace, and its children with it; False if nothing ran."""
        leader, children = self.leader(), self.children()
        if leader is None and not children:
            return False
        if leader is not None:
            self.resume()  # a suspended process does not see the signal
            _send([leader], self.stop_signal)
            if not _wait_gone([leader], self.grace):
                logger.warning("%s (process %d) did not stop in %.0f s, killed", self.name, self.pid, self.grace)
                self.kill()
                return True
        left = {*children, *self.children()}
        _send(left, signal.SIGTERM)
        if not _wait_gone(left, CHILDREN_GRACE):
            self._kill_all(left)
        return True

    def kill(self) -> None:
        """SIGKILL to the process and its children; raises `ProcessError` if one is still there afterwards."""
        leader = self.leader()
        if leader is not None:
            _send([leader], signal.SIGSTOP)  # it starts no more children while they are listed
        self._kill_all({*self.children(), *([leader] if leader is not None else [])})

    def _kill_all(self, processes: set[Any]) -> None:
        end = time.monotonic() + KILL_DEADLINE
        while processes:
            _send(processes, signal.SIGKILL)
            if not _wait_gone(processes, end - time.monotonic()):
                raise ProcessError(f"{self.name} (process {self.pid}) or a child of it does not end on SIGKILL.")
            processes = set(self.children())  # started while the others were being killed

    def suspend(self) -> None:
        """SIGSTOP to the process and its children."""
        leader = self.leader()
        _send([leader] if leader is not None else [], signal.SIGSTOP)
        _send(self.children(), signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to the process and its children."""
        leader = self.leader()
        _send(self.children(), signal.SIGCONT)
        _send([leader] if leader is not None else [], signal.SIGCONT)


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
        started = psutil.Process(self._popen.pid).create_time()
        self._record = ProcessRecord(self.name, self._popen.pid, started, token, int(self._stop_signal), self._grace)
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
        leader = self._started().leader()
        _send([leader] if leader is not None else [], number)

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


class Lifeline:
    """Ends what the pid files in `folder` name as soon as this process has ended, by kill -9 too.

    A small watcher process waits for the end of a pipe that only this process holds open. Leave it out where
    processes shall outlive their starter.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lifeline.log").open("ab") as log:
            self._watcher = subprocess.Popen(
                [sys.executable, "-m", "nexus_tasks.sandbox.processes", str(folder.absolute())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, and the watcher, now."""
        self._watcher.communicate()


def recorded(folder: Path) -> list[ProcessRecord]:
    """What the pid files in `folder` and in the folders directly below it name, last started first."""
    return [record for _, record in _pid_files(folder)]


def stop_stale(folder: Path) -> list[ProcessRecord]:
    """End what the pid files in `folder` and directly below it name, last started first; returns what was running.

    For after a crash of the starter, and for `sandbox down`. A pid file whose process has ended is only removed:
    whatever has that pid now is somebody else's.
    """
    ended = []
    for pid_file, record in _pid_files(folder):
        if record.end():
            ended.append(record)
        pid_file.unlink(missing_ok=True)
    return ended


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on.

    It lies below the ephemeral ports: a client that tries again and again to reach a stopped server on an ephemeral
    port can end up connected to itself, and then the server cannot come back.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise ProcessError(f"No free port between {PORTS.start} and {PORTS.stop - 1}.")


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until `condition` holds; raises `ProcessError` naming `what` when the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise ProcessError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(POLL_INTERVAL)


def _pid_files(folder: Path) -> list[tuple[Path, ProcessRecord]]:
    found = []
    for pattern in (f"*{PID_FILE_SUFFIX}", f"*/*{PID_FILE_SUFFIX}"):
        for pid_file in folder.glob(pattern):
            record = ProcessRecord.read(pid_file)
            if record is not None:
                found.append((pid_file, record))
    return sorted(found, key=lambda pair: pair[1].started, reverse=True)


def _send(processes: Iterable[Any], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)  # psutil compares the start time first


def _gone(process: Any) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait_gone(processes: Iterable[Any], seconds: float) -> bool:
    end = time.monotonic() + seconds
    left = [process for process in processes if not _gone(process)]
    while left and time.monotonic() < end:
        time.sleep(POLL_INTERVAL)
        left = [process for process in left if not _gone(process)]
    return not left


def _watch() -> None:
    """The `Lifeline`'s watcher: waits for the starter's end of the pipe to close."""
    sys.stdin.buffer.read()
    stop_stale(Path(sys.argv[1]))


if __name__ == "__main__":
    _watch()
