"""Starts a program again whenever it has ended, as systemd would; the only way a scenario touches workers and beat."""

import logging
import threading
import time

from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.process_error import ProcessError

RESTART_DELAY_S = 0.1  # as systemd's RestartSec
LONGEST_START_S = 10.0  # what `end` waits for a start in progress, before it kills all the same

logger = logging.getLogger(__name__)


class Supervised:
    """One supervised program. `kill` and `suspend` wait until it runs and is ready."""

    def __init__(self, process: ManagedProcess) -> None:
        self.process = process
        self.starts = 0
        self.kills = 0
        self._lock = threading.Lock()  # a ManagedProcess is not safe to start and kill at once
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._ready_since: float | None = None  # on the monotonic clock
        self._thread = threading.Thread(target=self._keep, name=f"supervisor of {process.name}", daemon=True)

    @property
    def own_exits(self) -> int:
        """How often it has ended although nobody killed it."""
        return max(0, self.starts - self.kills - 1)

    def worked_for(self) -> float:
        """Seconds since it was last ready; 0 while it is not."""
        since = self._ready_since
        return time.monotonic() - since if since is not None and self.process.is_running() else 0.0

    def begin(self) -> None:
        """Start it in the background."""
        self._thread.start()

    def wait_ready(self, seconds: float) -> None:
        """Wait for its first start; raises `ProcessError` when the time is up."""
        if not self._ready.wait(seconds):
            raise ProcessError(f"{self.process.name} was not ready after {seconds:.0f} s: {self.process.log_file}")

    def kill(self) -> None:
        """SIGKILL to it and its children."""
        with self._lock:
            if self.process.is_running():
                self._ready_since = None
                self.process.kill()
                self.kills += 1

    def suspend(self) -> None:
        """SIGSTOP to it and its children."""
        with self._lock:
            if self.process.is_running():
                self.process.suspend()

    def resume(self) -> None:
        """SIGCONT to it and its children."""
        with self._lock:
            if self.process.is_running():
                self.process.resume()

    def end(self) -> None:
        """Stop supervising, and kill it."""
        self._ended.set()
        held = self._lock.acquire(timeout=LONGEST_START_S)
        try:
            self.process.kill()
        finally:
            if held:
                self._lock.release()

    def _keep(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                if not self._ended.is_set() and not self.process.is_running():
                    self._start()
            self._ended.wait(RESTART_DELAY_S)

    def _start(self) -> None:
        self._ready_since = None
        try:
            self.process.start()
        except ProcessError as error:
            logger.warning("%s", error)
        else:
            self.starts += 1
            self._ready_since = time.monotonic()
            self._ready.set()
