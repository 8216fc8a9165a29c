"""Where previews go, and when one is written."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.previews import keep_preview, preview_location

WHEN = datetime(2024, 5, 1, tzinfo=UTC)
FILE = DataFile(Path("/data/TEM/a.dm4"), PurePosixPath("TEM/a.dm4"), 12, WHEN)
FIRST, SECOND = (b"\x89PNG\r\n\x1a\n" + bytes(25) + content for content in (b"first", b"second"))


def test_a_preview_has_the_location_of_its_file() -> None:
    assert preview_location(PurePosixPath("TEM/a b.dm4")) == PurePosixPath("TEM/a b.dm4.thumb.png")
    assert preview_location(PurePosixPath("TEM/a.dm4"), 2) == PurePosixPath("TEM/a.dm4.2.thumb.png")


def test_a_preview_is_written_whole_with_nothing_left_beside_it(tmp_path: Path) -> None:
    location = keep_preview(FIRST, FILE, tmp_path)

    assert location == PurePosixPath("TEM/a.dm4.thumb.png")
    assert [path.name for path in (tmp_path / "TEM").iterdir()] == ["a.dm4.thumb.png"]
    assert (tmp_path / "TEM/a.dm4.thumb.png").read_bytes().endswith(FIRST[33:])


def test_a_preview_is_made_once_for_each_state_of_its_file(tmp_path: Path) -> None:
    target = tmp_path / "TEM/a.dm4.thumb.png"
    keep_preview(FIRST, FILE, tmp_path)
    written = target.stat()

    assert keep_preview(SECOND, FILE, tmp_path) == PurePosixPath("TEM/a.dm4.thumb.png")
    assert keep_preview(None, FILE, tmp_path) == PurePosixPath("TEM/a.dm4.thumb.png")
    assert target.stat() == written


@pytest.mark.parametrize(
    "changed",
    [
        replace(FILE, mtime=WHEN + timedelta(microseconds=1)),
        replace(FILE, mtime=WHEN - timedelta(days=365)),  # restored from a backup
        replace(FILE, size=FILE.size * 10),  # in place, with its time put back
    ],
)
def test_a_file_that_changed_gets_a_new_preview_whichever_is_newer(changed: DataFile, tmp_path: Path) -> None:
    target = tmp_path / "TEM/a.dm4.thumb.png"
    keep_preview(FIRST, FILE, tmp_path)

    assert keep_preview(None, changed, tmp_path) is None
    keep_preview(SECOND, changed, tmp_path)

    assert target.read_bytes().endswith(SECOND[33:])


def test_a_preview_that_does_not_say_what_it_was_made_of_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "TEM/a.dm4.thumb.png"
    target.parent.mkdir()
    for older in (FIRST, b"", FIRST[:20]):
        target.write_bytes(older)
        keep_preview(SECOND, FILE, tmp_path)
        assert target.read_bytes().endswith(SECOND[33:])


def test_the_note_in_a_preview_leaves_the_picture_whole(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    pillow.new("L", (30, 20), 7).save(stream, format="PNG")

    keep_preview(stream.getvalue(), FILE, tmp_path)

    with pillow.open(tmp_path / "TEM/a.dm4.thumb.png") as picture:
        picture.verify()
    with pillow.open(tmp_path / "TEM/a.dm4.thumb.png") as picture:
        assert (picture.size, picture.getextrema()) == ((30, 20), (7, 7))
        assert picture.info == {"Source": "12 bytes, modified 2024-05-01T00:00:00.000000+00:00"}


def test_what_is_no_png_is_kept_as_it_is(tmp_path: Path) -> None:
    keep_preview(b"jpeg", FILE, tmp_path)

    assert (tmp_path / "TEM/a.dm4.thumb.png").read_bytes() == b"jpeg"


def test_without_a_picture_there_is_no_preview(tmp_path: Path) -> None:
    assert keep_preview(None, FILE, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_name_too_long_for_a_preview_costs_only_the_preview(tmp_path: Path) -> None:
    name = "x" * 250
    file = DataFile(Path(f"/data/{name}"), PurePosixPath(name), 1, WHEN)

    assert keep_preview(FIRST, file, tmp_path) is None
