"""Tells what went wrong with the disk or share from what is wrong with a file; used by `isolation` and in its child.

A share that fails for a moment must not make a file unreadable for good. Whoever catches the errors of reading notes
them here, and `child` says with its answer whether one of them was the storage's.
"""

import errno
import os
from pathlib import Path

# What local disks, NFS, CIFS and FUSE answer when they fail or their server does not answer.
_ERRNOS = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.ENOTCONN,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ESHUTDOWN,
    }
)

_noted: list[BaseException] = []


def note(error: BaseException) -> None:
    """Remember an error that goes no further if it, or what led to it, is the storage's."""
    if _is_of_storage(error):
        _noted.append(error)


def has_failed() -> bool:
    """Whether an error of the storage was noted since this was asked last."""
    failed = bool(_noted)
    _noted.clear()
    return failed


def check(path: Path) -> None:
    """Raises `OSError` when the storage of a file does not answer; a file that is gone or may not be read is no matter.

    It is the storage that is asked, not the file: a bad sector must not count as a share that is away.
    """
    try:
        with path.open("rb") as stream:
            os.fstatvfs(stream.fileno())  # goes to the server, where reading may be answered from memory
    except OSError as error:
        if _is_of_storage(error):
            raise


def _is_of_storage(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _ERRNOS:
            return True
        error = error.__cause__ or error.__context__
    return False
