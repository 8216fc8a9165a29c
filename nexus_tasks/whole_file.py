"""`write_whole`: a file is complete or not there, after a power cut too; for documents, previews and the archive."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_FOLDERS_ARE_NOT_FLUSHED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # on some network file systems


def write_whole(target: Path, content: bytes, *, parents: bool = True, flush: bool = True) -> None:
    """Have `target` hold `content`: written aside, flushed, renamed, and the rename flushed.

    Who is reading what was there before reads that to its end. A write that fails leaves that in place, and nothing
    beside it. Missing folders are made; without `parents` only the one that the file stands in. Without `flush` the
    rename is not flushed: who writes several files calls `flush_folder` after the last one. Raises `OSError`.
    """
    _make_folder(target.parent, parents=parents)
    handle, aside = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).rename(target)
    except BaseException:
        with suppress(OSError):
            Path(aside).unlink()
        raise
    if flush:
        flush_folder(target.parent)


def _make_folder(folder: Path, *, parents: bool) -> None:
    if folder.is_dir():
        return
    if parents:
        _make_folder(folder.parent, parents=True)
    folder.mkdir(exist_ok=True)
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Have what was renamed in the folder survive a power cut. Raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _FOLDERS_ARE_NOT_FLUSHED:
            raise
    finally:
        os.close(handle)
