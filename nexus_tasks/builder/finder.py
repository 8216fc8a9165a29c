"""`FileFinder`: the files of many sessions, each instrument's folder listed once; used by `record_builder`.

A record must hold all files of its session, whole. Where that cannot be said yet, the session has to wait.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nexus_tasks.builder.files import EVERYTHING, DataFile, FileChoice, Listing, list_folder

LISTING_AGE = timedelta(minutes=5)  # after that a folder is listed anew: files may be copied to it late


class FilesNotReadyError(Exception):
    """Files of a session are still being written; `retry_at` is when to look again."""

    def __init__(self, reason: str, retry_at: datetime) -> None:
        super().__init__(reason)
        self.retry_at = retry_at


@dataclass(frozen=True)
class _Listed:
    listing: Listing
    since: datetime  # when the listing began


class FileFinder:
    """Finds the files of sessions; for one thread, and for one round of building.

    `quiet` is how long a file must have been left alone before it counts as written. `clock` tells the time.
    """

    def __init__(
        self,
        data_root: Path,
        *,
        choice: FileChoice = EVERYTHING,
        quiet: timedelta = timedelta(0),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._data_root = data_root
        self._choice = choice
        self._quiet = quiet
        self._clock = clock
        self._listed: dict[Path, _Listed] = {}

    def find(
        self, folder: Path, start: datetime, end: datetime, *, clock_offset: timedelta = timedelta(0)
    ) -> list[DataFile]:
        """The files below `folder` with start < mtime <= end, by time, then path.

        `clock_offset` is how far the clock that dates the files is ahead; they come with their true times. Raises
        `DataFolderError`, and `FilesNotReadyError` when one of them may still be growing.
        """
        listed = self._list(folder, end)
        files = listed.listing.between(start, end, clock_offset)
        if files and self._quiet:
            latest = files[-1]
            if latest.mtime > listed.since - self._quiet:
                ago = max(0.0, (listed.since - latest.mtime).total_seconds())
                raise FilesNotReadyError(
                    f"the file {latest.location} was written {ago:.0f} s ago and may still be growing",
                    latest.mtime + self._quiet,
                )
        return files

    def check_unchanged(self, file: DataFile) -> None:
        """Called when a file has been read: what was read must be what was listed. Raises `FilesNotReadyError`."""
        try:
            changed = None if file.unchanged() else "has changed"
        except (FileNotFoundError, NotADirectoryError):
            changed = "was taken away"
        if changed is not None:
            self._listed.clear()  # other files may have changed with it
            raise FilesNotReadyError(
                f"the file {file.location} {changed} while the record was being built", self._clock() + self._quiet
            )

    def _list(self, folder: Path, end: datetime) -> _Listed:
        """What lies in the folder: as listed before, unless that cannot be all of a session that ended at `end`.

        It is listed anew when the listing is older than `LISTING_AGE`, and for a session that ended after it or less
        than the quiet time before it: only then can files have been added or changed that the listing has missed.
        """
        now = self._clock()
        self._listed = {known: listed for known, listed in self._listed.items() if now - listed.since < LISTING_AGE}
        listed = self._listed.get(folder)
        if listed is None or listed.since - self._quiet < end:
            listed = _Listed(list_folder(folder, data_root=self._data_root, choice=self._choice), now)
            self._listed[folder] = listed
        return listed
