"""Where previews go, and when one is written."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.previews import keep_preview, preview_location

WHEN = datetime(2024, 5, 1, tzinfo=UTC)
FILE = DataFile(Path("/data/TEM/a.dm4"), PurePosixPath("TEM/a.dm4"), 1, WHEN)


def test_a_preview_has_the_location_of_its_file() -> None:
    assert preview_location(PurePosixPath("TEM/a b.dm4")) == PurePosixPath("TEM/a b.dm4.thumb.png")
    assert preview_location(PurePosixPath("TEM/a.dm4"), 2) == PurePosixPath("TEM/a.dm4.2.thumb.png")


def test_a_preview_is_written_whole_with_nothing_left_beside_it(tmp_path: Path) -> None:
    location = keep_preview(b"png", FILE, tmp_path)

    assert location == PurePosixPath("TEM/a.dm4.thumb.png")
    assert [path.name for path in (tmp_path / "TEM").iterdir()] == ["a.dm4.thumb.png"]
    assert (tmp_path / "TEM/a.dm4.thumb.png").read_bytes() == b"png"


def test_a_preview_newer_than_its_file_is_kept_and_an_older_one_replaced(tmp_path: Path) -> None:
    keep_preview(b"first", FILE, tmp_path)
    target = tmp_path / "TEM/a.dm4.thumb.png"

    keep_preview(b"second", FILE, tmp_path)
    assert target.read_bytes() == b"first"

    old = (WHEN - timedelta(days=1)).timestamp()
    os.utime(target, (old, old))
    keep_preview(b"third", FILE, tmp_path)
    assert target.read_bytes() == b"third"


def test_without_a_picture_there_is_no_preview(tmp_path: Path) -> None:
    assert keep_preview(None, FILE, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_name_too_long_for_a_preview_costs_only_the_preview(tmp_path: Path) -> None:
    name = "x" * 250
    file = DataFile(Path(f"/data/{name}"), PurePosixPath(name), 1, WHEN)

    assert keep_preview(b"png", file, tmp_path) is None
