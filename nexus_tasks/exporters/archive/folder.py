"""A folder of this machine's file systems that keeps the archive (`file:///…`); opened by `store`.

Nothing is needed for it: a file is written aside, flushed to disk, then renamed. Whatever the file system raises leaves
this module as one of the contract's exceptions.
"""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from nexus_tasks.exporters.base import Check, ConfigurationError, ExportError, PermanentError, TransientError
from nexus_tasks.whole_file import write_whole

# What a file system says that every record would meet, with what to do; the rest, a disk's errors, time may mend.
_TO_MEND = {
    errno.ENOENT: "it is not there: make it, or mount what it is on",
    errno.EACCES: "the workers' user may not use it: give it the right to",
    errno.EPERM: "the workers' user may not use it: give it the right to",
    errno.EROFS: "it is mounted read-only",
    errno.ENOSPC: "it is full: make room",
    errno.EDQUOT: "the workers' user has used up its quota: make room",
}
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST}

T = TypeVar("T")


class Folder:
    """A folder of this machine's file systems.

    It is never made, and not filled when what was kept in it is gone: an unmounted disk would fill the one below it.
    """

    def __init__(self, root: Path, take_turn: Callable[[], None], was_used: Callable[[], bool]) -> None:
        self._root = root
        self._take_turn = take_turn
        self._was_used = was_used

    def sizes(self, folder: str) -> dict[str, int]:
        """See `ArchiveStore.sizes`."""

        def look() -> dict[str, int]:
            # Raises without the root, while `folder` need not be there. Twice: others may just have begun to use it.
            if self._is_empty() and self._was_used() and self._is_empty():
                raise ConfigurationError(
                    f"There is something to mend with the archive's folder {self._root}: it is empty although records "
                    "were archived there. Mount what it is on; if it was emptied on purpose, put any file there."
                )
            try:
                with os.scandir(self._root / folder) as entries:
                    return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            except FileNotFoundError:
                return {}

        return self._call(look)

    def read(self, name: str) -> bytes | None:
        """See `ArchiveStore.read`."""

        def look() -> bytes | None:
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

        return self._call(look)

    def write(self, name: str, content: bytes) -> None:
        """See `ArchiveStore.write`."""
        self._call(partial(write_whole, self._root / name, content, parents=False))

    def address_of(self, name: str) -> str | None:
        """See `ArchiveStore.address_of`."""
        return (self._root / name).as_uri()

    def checks(self) -> list[Check]:
        """See `ArchiveStore.checks`."""

        def allowed(mode: int, what: str) -> str:
            if not os.access(self._root, mode | os.X_OK):
                raise ConfigurationError(f"The workers' user may not {what} the archive's folder {self._root}.")
            return f"may {what} {self._root}"

        def reachable() -> str:
            if not self._call(self._root.is_dir):
                raise self._failure(FileNotFoundError(errno.ENOENT, ""))
            return f"the folder {self._root}"

        return [
            Check("reachable", reachable, needed=True),
            Check("readable", partial(allowed, os.R_OK, "read")),
            Check("writable", partial(allowed, os.W_OK, "write to")),
        ]

    def _is_empty(self) -> bool:
        with os.scandir(self._root) as entries:
            return next(entries, None) is None

    def _call(self, function: Callable[[], T]) -> T:
        self._take_turn()
        try:
            return function()
        except OSError as error:
            failure = self._failure(error)
        raise failure

    def _failure(self, error: OSError) -> ExportError:
        where, said = f"the archive's folder {self._root}", (error.strerror or type(error).__name__)
        if error.errno in _TO_MEND:
            return ConfigurationError(f"There is something to mend with {where}: {_TO_MEND[error.errno]}.")
        if error.errno in _IN_THE_WAY:
            return PermanentError(f"Something else has the name of a file or folder in {where} ({said}): move it away.")
        return TransientError(f"{where[0].upper()}{where[1:]} could not be used ({said}); look at its disk.")
