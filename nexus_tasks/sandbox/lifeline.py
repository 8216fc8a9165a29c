"""Ends the sandbox's programs when their starter has ended; used by `demo` and the tests, and run as their watcher.

`PR_SET_PDEATHSIG` is not used: it fires when the *thread* that started the program ends, and setting it takes Python
code between fork and exec, which threads make unsafe.
"""

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from nexus_tasks.sandbox.process_record import stop_stale


class Lifeline:
    """Ends what the pid files in `folder` name as soon as this process has ended, by kill -9 too.

    A small watcher process waits for the end of a pipe that only this process holds open. Leave it out where
    processes shall outlive their starter.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lifeline.log").open("ab") as log:
            self._watcher = subprocess.Popen(
                [sys.executable, "-m", "nexus_tasks.sandbox.lifeline", str(folder.absolute())],
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


def _watch() -> None:
    """The `Lifeline`'s watcher: waits for the starter's end of the pipe to close."""
    sys.stdin.buffer.read()
    stop_stale(Path(sys.argv[1]))


if __name__ == "__main__":
    _watch()
