"""The files of many sessions, found in few listings, and only when they are whole."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nexus_tasks.builder.finder import LISTING_AGE, FileFinder, FilesNotReadyError
from tests.unit.builder.test_files import put

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
TEM = Path("TEM")


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON + HOUR)


@pytest.fixture
def finder(tmp_path: Path, clock: Clock) -> FileFinder:
    return FileFinder(tmp_path, quiet=MINUTE, clock=clock)


def names(finder: FileFinder, start: datetime, end: datetime) -> list[str]:
    return [file.path.name for file in finder.find(TEM, start, end)]


def test_sessions_that_have_ended_share_one_listing(tmp_path: Path, finder: FileFinder, clock: Clock) -> None:
    put(tmp_path / "TEM/a.dm3", NOON - HOUR)
    assert names(finder, NOON - 2 * HOUR, NOON) == ["a.dm3"]

    put(tmp_path / "TEM/b.dm3", NOON - 3 * HOUR)  # copied late: seen with the next listing
    clock.now += LISTING_AGE - SECOND
    assert names(finder, NOON - 4 * HOUR, NOON - 2 * HOUR) == []

    clock.now += SECOND
    assert names(finder, NOON - 4 * HOUR, NOON - 2 * HOUR) == ["b.dm3"]


@pytest.mark.parametrize("ended", [timedelta(0), -MINUTE + SECOND, MINUTE])
def test_a_session_that_ended_after_the_listing_or_just_before_it_has_the_folder_listed_anew(
    tmp_path: Path, finder: FileFinder, clock: Clock, ended: timedelta
) -> None:
    listed = clock.now
    put(tmp_path / "TEM/old.dm3", NOON - 2 * HOUR)
    assert names(finder, NOON - HOUR, NOON) == []

    put(tmp_path / "TEM/new.dm3", listed + ended)
    clock.now = listed + 3 * MINUTE
    assert names(finder, NOON, listed + ended) == ["new.dm3"]


def test_each_instrument_has_a_listing_of_its_own(tmp_path: Path, finder: FileFinder) -> None:
    put(tmp_path / "TEM/a.dm3", NOON)
    put(tmp_path / "SEM/b.tif", NOON)

    assert names(finder, NOON - HOUR, NOON) == ["a.dm3"]
    assert [file.path.name for file in finder.find(Path("SEM"), NOON - HOUR, NOON)] == ["b.tif"]


def test_a_session_waits_for_a_file_that_was_written_just_now(tmp_path: Path, finder: FileFinder, clock: Clock) -> None:
    put(tmp_path / "TEM/a.dm3", clock.now - HOUR)
    put(tmp_path / "TEM/b.dm3", clock.now - 20 * SECOND)

    with pytest.raises(FilesNotReadyError, match=r"TEM/b\.dm3 was written 20 s ago") as caught:
        finder.find(TEM, NOON - HOUR, NOON + HOUR)

    assert caught.value.retry_at == clock.now + 40 * SECOND
    clock.now = caught.value.retry_at
    assert names(finder, NOON - HOUR, NOON + HOUR) == ["a.dm3", "b.dm3"]


def test_a_new_file_of_another_session_is_not_waited_for(tmp_path: Path, finder: FileFinder, clock: Clock) -> None:
    put(tmp_path / "TEM/a.dm3", NOON)
    put(tmp_path / "TEM/b.dm3", clock.now - SECOND)

    assert names(finder, NOON - HOUR, NOON) == ["a.dm3"]


def test_whether_a_file_is_new_is_told_by_true_time(tmp_path: Path, finder: FileFinder, clock: Clock) -> None:
    ahead = 10 * MINUTE
    put(tmp_path / "TEM/a.dm3", clock.now + ahead - 2 * MINUTE)  # two minutes old, dated eight minutes from now
    assert len(finder.find(TEM, NOON, clock.now, clock_offset=ahead)) == 1

    put(tmp_path / "TEM/b.dm3", clock.now - ahead - 20 * SECOND)  # written 20 s ago with a clock that is behind
    with pytest.raises(FilesNotReadyError, match="20 s ago"):
        finder.find(TEM, NOON, clock.now, clock_offset=-ahead)


@pytest.mark.parametrize("change", ["changed", "away"])
def test_a_file_that_is_not_as_it_was_listed_makes_the_session_wait(
    tmp_path: Path, finder: FileFinder, clock: Clock, change: str
) -> None:
    put(tmp_path / "TEM/old.dm3", NOON - 2 * HOUR)
    path = put(tmp_path / "TEM/a.dm3", NOON)
    (file,) = finder.find(TEM, NOON - HOUR, NOON)
    finder.check_unchanged(file)

    if change == "changed":
        with path.open("ab") as growing:
            growing.write(b"more")
        os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    else:
        path.unlink()

    with pytest.raises(FilesNotReadyError, match=f"TEM/a.dm3 (has|was taken) {change}") as caught:
        finder.check_unchanged(file)
    assert caught.value.retry_at == clock.now + MINUTE
    # and what was listed before counts no more
    assert [found.size for found in finder.find(TEM, NOON - HOUR, NOON)] == ([8] if change == "changed" else [])
