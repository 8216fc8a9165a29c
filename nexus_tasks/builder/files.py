"""Finds the files that an instrument wrote during a session; called by `record.build_record`.

What belongs to a session is decided by modification time alone: start < mtime <= end, so that two sessions which touch
share no file and lose none.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

logger = logging.getLogger(__name__)

# Never data, whatever the instrument: compared in lower case with the file's name. Hidden files and folders (a leading
# dot) are left out as well.
IGNORED_NAMES = (
    "*.db",  # Thumbs.db, and the databases of acquisition programs
    "desktop.ini",
    "*.lnk",
    "*.lock",
    "*.tmp",
    "*.part",  # copies on their way
    "~$*",  # what office programs leave beside an open document
    "*.thumb.png",  # previews, should they be kept beside the data
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 200 * 365 * 24 * 3600 * 10**6  # microseconds; a broken clock must not stop the listing of its folder
_NUMBERED = re.compile(r"(.+)_\d+")  # scan_001_1.ser holds one of the series that scan_001.emi describes


class DataFolderError(Exception):
    """A folder with data cannot be used; the message is one line that names it and says what to do."""


@dataclass(frozen=True)
class DataFile:
    """One file as it was when its folder was listed."""

    path: Path  # absolute, to open it
    location: PurePosixPath  # relative to the data root, as records name it
    size: int  # bytes
    mtime: datetime  # UTC, cut to microseconds


def find_files(root: Path, start: datetime, end: datetime, *, data_root: Path) -> list[DataFile]:
    """The files below `root`, an instrument's folder inside `data_root`, with start < mtime <= end.

    They come sorted by modification time, then path. Links are followed only to places inside `data_root`, and no
    folder is walked twice. Raises `DataFolderError` when a folder is missing, fails, or lies outside `data_root`.
    """
    return [file for file in list_files(root, data_root=data_root) if start < file.mtime <= end]


def list_files(root: Path, *, data_root: Path) -> list[DataFile]:
    """Every data file below `root`, as in `find_files`; list once when many sessions are looked at."""
    data_root = data_root.absolute()
    root = data_root / root
    real_data_root = data_root.resolve()
    if not root.resolve().is_relative_to(real_data_root):
        raise DataFolderError(
            f"The folder {root} lies outside the data root {data_root}: correct the instrument's filestore path."
        )
    entries = [
        entry
        for folder in _folders(root, real_data_root)
        for entry in _without_companions([entry for entry in folder if not _is_folder(entry)])
    ]
    listed = {entry.path for entry in entries if not entry.is_symlink()}
    files = [
        _data_file(entry, data_root)
        for entry in entries
        if not (entry.is_symlink() and os.path.realpath(entry.path) in listed)
    ]
    return sorted((file for file in files if file is not None), key=lambda file: (file.mtime, file.path))


def _folders(root: Path, real_data_root: Path) -> Iterator[list[os.DirEntry[str]]]:
    """The usable entries of `root` and of every folder below it, real folders before linked ones."""
    walked: set[tuple[int, int]] = set()
    real, linked = [root], list[Path]()
    while real or linked:
        folder = real.pop() if real else linked.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in walked:
                continue
            walked.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            _judge(error, folder, root)
            continue
        entries = [entry for entry in entries if not _is_ignored(entry.name) and _stays_inside(entry, real_data_root)]
        for entry in entries:
            if _is_folder(entry):
                (linked if entry.is_symlink() else real).append(Path(entry.path))
        yield entries


def _judge(error: OSError, folder: Path, root: Path) -> None:
    """Raise what would make a record incomplete without anybody knowing; a folder that vanished is no loss."""
    if folder != root and isinstance(error, FileNotFoundError | NotADirectoryError):
        return
    if folder != root and isinstance(error, PermissionError):
        logger.warning("The folder %s may not be read and is left out: %s", folder, error.strerror)
        return
    remedy = "check that the share is mounted, that the path is right and that this user may read it"
    raise DataFolderError(f"The folder {folder} cannot be read ({error.strerror}): {remedy}.") from error


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or any(fnmatchcase(name.lower(), pattern) for pattern in IGNORED_NAMES)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _stays_inside(entry: os.DirEntry[str], real_data_root: Path) -> bool:
    if not entry.is_symlink():
        return True
    target = Path(os.path.realpath(entry.path))
    if target.is_relative_to(real_data_root):
        return True
    logger.warning("The link %s leaves the data root and is not followed", entry.path)
    return False


def _without_companions(entries: Sequence[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """Leave out what only describes another file of the folder: an `.emi` with its `.ser`, a `.hdr` with its `.tif`."""
    names = {entry.name.lower() for entry in entries}
    series = {match[1] for name in names if name.endswith(".ser") and (match := _NUMBERED.fullmatch(name[:-4]))}
    describes_another: dict[str, Callable[[str], bool]] = {
        ".emi": lambda stem: stem in series or f"{stem}.ser" in names,
        ".hdr": lambda stem: f"{stem}.tif" in names or f"{stem}.tiff" in names,
    }
    kept = []
    for entry in entries:
        name = PurePosixPath(entry.name.lower())
        if name.suffix not in describes_another or not describes_another[name.suffix](name.stem):
            kept.append(entry)
    return kept


def _data_file(entry: os.DirEntry[str], data_root: Path) -> DataFile | None:
    """What is known of a regular file; None for sockets, dangling links, and what vanished since it was listed."""
    try:
        if not entry.is_file():
            return None
        status = entry.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if entry.is_symlink():
            return None
        raise DataFolderError(
            f"The file {entry.path} cannot be looked at ({error.strerror}): check that the share is mounted."
        ) from error
    return DataFile(
        path=Path(entry.path),
        location=PurePosixPath(os.path.relpath(entry.path, data_root)),
        size=status.st_size,
        mtime=_EPOCH + timedelta(microseconds=max(-_LATEST, min(status.st_mtime_ns // 1000, _LATEST))),
    )
