"""Finds the files that an instrument wrote; `finder` asks it for a session's, the demo for all.

What belongs to a session is decided by modification time alone: start < mtime <= end, so that two sessions which touch
share no file and lose none.
"""

import logging
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import translate
from functools import cache, lru_cache
from operator import itemgetter
from pathlib import Path, PurePosixPath

from nexus_tasks.plain_error import PlainError

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
_MICROSECOND = timedelta(microseconds=1)
_LATEST = 200 * 365 * 24 * 3600 * 10**6  # microseconds; a broken clock must not stop the listing of its folder
_NUMBERED = re.compile(r"(.+)_\d+")  # scan_001_1.ser holds one of the series that scan_001.emi describes


class DataFolderError(PlainError):
    """A folder with data cannot be used; the message is one line that names it and says what to do."""


@dataclass(frozen=True)
class DataFile:
    """One file as it was when its folder was listed."""

    path: Path  # absolute, to open it
    location: PurePosixPath  # relative to the data root, as records name it
    size: int  # bytes
    mtime: datetime  # UTC, cut to microseconds; by true time where the instrument's clock is known to be wrong
    clock_offset: timedelta = timedelta(0)  # how far that clock was ahead: the file itself says mtime + clock_offset

    def unchanged(self) -> bool:
        """Whether size and modification time are still those of the listing. Raises `OSError` when it is gone."""
        status = self.path.stat()
        listed = _microseconds(self.mtime) + self.clock_offset // _MICROSECOND
        return (status.st_size, _mtime(status)) == (self.size, listed)


@dataclass(frozen=True)
class FileChoice:
    """Which files of a folder are data; what is in `IGNORED_NAMES` never is."""

    known: Callable[[str], bool] | None = None  # asked with the file's name; None: every file is data
    ignored: tuple[str, ...] = ()  # patterns as in fnmatch, of names and of paths relative to the data root


EVERYTHING = FileChoice()


@dataclass(frozen=True)
class Listing:
    """All data files below a folder as they were at one moment; a plain tuple each, for folders of 100,000 files."""

    data_root: Path
    entries: list[tuple[int, str, int]]  # mtime in microseconds since 1970, path, bytes; by time, then path

    def between(self, start: datetime, end: datetime, clock_offset: timedelta = timedelta(0)) -> list[DataFile]:
        """The files with start < mtime <= end, once a clock that is ahead by `clock_offset` is put right."""
        offset = clock_offset // _MICROSECOND
        first, last = (
            bisect_right(self.entries, _microseconds(moment) + offset, key=itemgetter(0)) for moment in (start, end)
        )
        return self._files(self.entries[first:last], clock_offset)

    def all(self) -> list[DataFile]:
        """Every file, by its own clock."""
        return self._files(self.entries, timedelta(0))

    def _files(self, entries: Iterable[tuple[int, str, int]], clock_offset: timedelta) -> list[DataFile]:
        return [
            DataFile(
                path=Path(path),
                location=PurePosixPath(os.path.relpath(path, self.data_root)),
                size=size,
                mtime=_EPOCH + timedelta(microseconds=microseconds) - clock_offset,
                clock_offset=clock_offset,
            )
            for microseconds, path, size in entries
        ]


def list_files(root: Path, *, data_root: Path) -> list[DataFile]:
    """Every data file below `root`, as in `list_folder`."""
    return list_folder(root, data_root=data_root).all()


def list_folder(root: Path, *, data_root: Path, choice: FileChoice = EVERYTHING) -> Listing:
    """What lies below `root`, an instrument's folder inside `data_root`; list once when many sessions are looked at.

    Links are followed only to places inside `data_root`, and no folder is walked twice. Raises `DataFolderError` when a
    folder is missing, fails, or lies outside `data_root`, and when `root` has nothing in it at all, as the place of a
    share that is not mounted.
    """
    data_root = data_root.absolute()
    root = data_root / root
    real_data_root = data_root.resolve()
    if not root.resolve().is_relative_to(real_data_root):
        raise DataFolderError(
            f"The folder {root} lies outside the data root {data_root}: correct the instrument's filestore path."
        )
    known = choice.known
    entries = [
        entry
        for folder in _folders(root, data_root, real_data_root, choice.ignored)
        for entry in _without_companions(folder)
        if known is None or known(entry.name)
    ]
    linked = [entry for entry in entries if entry.is_symlink()]
    if linked:
        real = cache(os.path.realpath)  # of folders: far fewer than files
        listed = {f"{real(_parent(entry))}/{entry.name}" for entry in entries if not entry.is_symlink()}
        doubled = {entry.path for entry in linked if os.path.realpath(entry.path) in listed}
        entries = [entry for entry in entries if entry.path not in doubled]
    found = [looked_at for entry in entries if (looked_at := _look_at(entry)) is not None]
    # by the parts of the path, as people list folders: a/b comes before a-1
    return Listing(data_root, sorted(found, key=lambda entry: (entry[0], entry[1].replace(os.sep, "\0"))))


def _folders(
    root: Path, data_root: Path, real_data_root: Path, ignored: tuple[str, ...]
) -> Iterator[list[os.DirEntry[str]]]:
    """The usable files of `root` and of every folder below it, real folders before linked ones."""
    ignored_name = _matcher(IGNORED_NAMES + ignored)
    ignored_path = _matcher(ignored)
    walked: set[tuple[int, int]] = set()
    real, linked = [str(root)], list[str]()
    while real or linked:
        folder = real.pop() if real else linked.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116 a Path for each of 100,000 names takes longer than the disk
            if (status.st_dev, status.st_ino) in walked:
                continue
            walked.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            _judge(error, Path(folder), root)
            continue
        if not entries and folder == str(root):
            raise DataFolderError(
                f"The folder {folder} is empty: check that the share is mounted; if it is, put any file there."
            )
        location = os.path.relpath(folder, data_root).lower()
        files = []
        for entry in entries:
            name = entry.name.lower()
            if name.startswith(".") or ignored_name(name) or (ignored and ignored_path(f"{location}/{name}")):
                continue
            if not _stays_inside(entry, real_data_root):
                continue
            if _is_folder(entry):
                (linked if entry.is_symlink() else real).append(entry.path)
            else:
                files.append(entry)
        yield files


@lru_cache(maxsize=64)
def _matcher(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """Whether a text in lower case fits one of the patterns: one expression for all takes half the time of each."""
    return re.compile("|".join(translate(pattern.lower()) for pattern in patterns)).match


def _judge(error: OSError, folder: Path, root: Path) -> None:
    """Raise what would make a record incomplete without anybody knowing; a folder that vanished is no loss."""
    if folder != root and isinstance(error, FileNotFoundError | NotADirectoryError):
        return
    if folder != root and isinstance(error, PermissionError):
        logger.warning("The folder %s may not be read and is left out: %s", folder, error.strerror)
        return
    remedy = "check that the share is mounted, that the path is right and that this user may read it"
    raise DataFolderError(f"The folder {folder} cannot be read ({error.strerror}): {remedy}.") from error


def _parent(entry: os.DirEntry[str]) -> str:
    return entry.path.removesuffix(f"/{entry.name}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _stays_inside(entry: os.DirEntry[str], real_data_root: Path) -> bool:
    if not entry.is_symlink():
        return True
    if Path(os.path.realpath(entry.path)).is_relative_to(real_data_root):
        return True
    _report_link(entry.path)
    return False


@lru_cache(maxsize=10_000)
def _report_link(path: str) -> None:
    """Once per process: folders are listed again and again."""
    logger.warning("The link %s leaves the data root and is not followed", path)


def _without_companions(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """Leave out what only describes another file of the folder: an `.emi` with its `.ser`, a `.hdr` with its `.tif`."""
    names = {entry.name.lower() for entry in entries}
    series = {match[1] for name in names if name.endswith(".ser") and (match := _NUMBERED.fullmatch(name[:-4]))}
    describes_another: dict[str, Callable[[str], bool]] = {
        ".emi": lambda stem: stem in series or f"{stem}.ser" in names,
        ".hdr": lambda stem: f"{stem}.tif" in names or f"{stem}.tiff" in names,
    }
    for entry in entries:
        stem, suffix = os.path.splitext(entry.name.lower())  # noqa: PTH122 as above
        if suffix not in describes_another or not describes_another[suffix](stem):
            yield entry


def _look_at(entry: os.DirEntry[str]) -> tuple[int, str, int] | None:
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
    return _mtime(status), entry.path, status.st_size


def _mtime(status: os.stat_result) -> int:
    """Microseconds since 1970."""
    return max(-_LATEST, min(status.st_mtime_ns // 1000, _LATEST))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
