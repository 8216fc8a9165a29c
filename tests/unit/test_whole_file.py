"""A file that is written is complete or not there."""

import errno
import os
import stat
from pathlib import Path

import pytest

from nexus_tasks.whole_file import write_whole
from tests.full_disk import full_disk

NEW = b"new" * 1000


def test_a_file_holds_what_was_written_and_all_may_read_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "a/b/c.xml", NEW)

    assert (tmp_path / "a/b/c.xml").read_bytes() == NEW
    assert stat.S_IMODE((tmp_path / "a/b/c.xml").stat().st_mode) == 0o644
    assert os.listdir(tmp_path / "a/b") == ["c.xml"]  # noqa: PTH208


@pytest.mark.parametrize("old", [b"old", None])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, old: bytes | None) -> None:
    target = tmp_path / "c.xml"
    if old is not None:
        target.write_bytes(old)

    with pytest.raises(OSError, match="File too large") as caught, full_disk(room=1000):
        write_whole(target, NEW)

    assert caught.value.errno == errno.EFBIG
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {"c.xml": old})


def test_what_cannot_be_put_in_place_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "c.xml").mkdir()

    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "c.xml", NEW)

    assert [path.name for path in tmp_path.iterdir()] == ["c.xml"]


def test_who_is_reading_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    target = tmp_path / "c.xml"
    target.write_bytes(b"old")

    with target.open("rb") as reading:
        write_whole(target, NEW)
        assert reading.read() == b"old"

    assert target.read_bytes() == NEW


def test_the_file_is_flushed_before_it_is_renamed_and_its_folders_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushed = os.fsync, list[tuple[str, bool]]()
    target = tmp_path / "made/c.xml"

    def noted(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH115 a file descriptor's link
        flushed.append(("aside" if path.suffix == ".part" else str(path), target.exists()))
        flush(handle)

    monkeypatch.setattr(os, "fsync", noted)
    write_whole(target, NEW)

    assert flushed == [(str(tmp_path), False), ("aside", False), (str(target.parent), True)]


def test_folders_above_are_made_only_where_that_is_asked_for(tmp_path: Path) -> None:
    write_whole(tmp_path / "a/c.xml", NEW, parents=False)

    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "x/y/c.xml", NEW, parents=False)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]
