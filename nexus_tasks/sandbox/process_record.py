"""What is known of a program that the sandbox started, in a pid file; whoever has the folder can end it by that.

A process is known by its pid *and* its start time, because pids are given again to other programs. So servers may
outlive their starter on purpose (`sandbox up`) or by accident (it was killed), and `stop_stale` ends them without ever
ending anybody else's. Used by `managed_process`, `lifeline`, `sandbox down` and the tests.
"""

import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from nexus_tasks.sandbox import SandboxNotInstalledError
from nexus_tasks.sandbox.process_error import ProcessError
from nexus_tasks.sandbox.waiting import POLL_INTERVAL

try:
    import psutil
except ImportError as error:
    raise SandboxNotInstalledError("embedded servers") from error

logger = logging.getLogger(__name__)

CHILDREN_GRACE = 2.0  # seconds that children left behind by their parent get to stop
KILL_DEADLINE = 10.0  # seconds until a killed process must be gone
SAME_START = 1.0  # seconds that two readings of one start time may differ: the kernel's boot time is corrected
PID_FILE_SUFFIX = ".pid.json"
TOKEN_VARIABLE = "NX_SANDBOX_PROCESS"  # noqa: S105  marks a program and its children as ours; not a secret


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
    def of_running(cls, name: str, pid: int, token: str, stop_signal: int, grace: float) -> Self:
        """The record of a process that runs now."""
        return cls(name, pid, psutil.Process(pid).create_time(), token, stop_signal, grace)

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

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone, not to its children."""
        leader = self.leader()
        _send([leader] if leader is not None else [], number)

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
