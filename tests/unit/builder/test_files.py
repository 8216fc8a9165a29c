"""Which files belong to a session."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nexus_tasks.builder.files import DataFolderError, FileChoice, list_files, list_folder
from nexus_tasks.builder.readers.extensions import is_known

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def put(path: Path, mtime: datetime = NOON, content: bytes = b"data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    nanoseconds = int(mtime.timestamp()) * 10**9 + mtime.microsecond * 1000
    os.utime(path, ns=(nanoseconds, nanoseconds))
    return path


def locations(data_root: Path, folder: str = "TEM") -> list[str]:
    return [str(file.location) for file in list_files(Path(folder), data_root=data_root)]


def test_a_file_belongs_to_the_session_that_ends_with_it_and_not_to_the_one_that_starts_with_it(tmp_path: Path) -> None:
    put(tmp_path / "TEM/a.dm3", NOON)

    before = list_folder(Path("TEM"), data_root=tmp_path).between(NOON - HOUR, NOON)
    after = list_folder(Path("TEM"), data_root=tmp_path).between(NOON, NOON + HOUR)

    assert [str(file.location) for file in before] == ["TEM/a.dm3"]
    assert after == []


def test_a_microsecond_decides(tmp_path: Path) -> None:
    put(tmp_path / "TEM/a.dm3", NOON + timedelta(microseconds=1))

    assert list_folder(Path("TEM"), data_root=tmp_path).between(NOON - HOUR, NOON) == []
    assert len(list_folder(Path("TEM"), data_root=tmp_path).between(NOON, NOON + HOUR)) == 1


def test_files_come_by_time_and_then_by_path_with_size_and_aware_times(tmp_path: Path) -> None:
    put(tmp_path / "TEM/z.dm3", NOON)
    put(tmp_path / "TEM/deep/er/b.dm3", NOON + HOUR, b"12345")
    put(tmp_path / "TEM/a.dm3", NOON + HOUR)

    files = list_files(Path("TEM"), data_root=tmp_path)

    assert [str(file.location) for file in files] == ["TEM/z.dm3", "TEM/a.dm3", "TEM/deep/er/b.dm3"]
    assert files[2].size == 5
    assert files[2].mtime == NOON + HOUR
    assert files[2].mtime.tzinfo is UTC
    assert files[2].path == tmp_path / "TEM/deep/er/b.dm3"


def test_what_only_describes_another_file_is_no_dataset_of_its_own(tmp_path: Path) -> None:
    for name in ("scan_001.emi", "scan_001_1.ser", "scan_001_2.ser", "lonely.emi", "a.tif", "a.hdr", "b.hdr"):
        put(tmp_path / "TEM" / name)

    assert locations(tmp_path) == [
        "TEM/a.tif",
        "TEM/b.hdr",
        "TEM/lonely.emi",
        "TEM/scan_001_1.ser",
        "TEM/scan_001_2.ser",
    ]


@pytest.mark.parametrize("name", ["Thumbs.db", "log.DB", ".DS_Store", ".hidden/a.dm3", "a.tmp", "~$notes.docx"])
def test_what_programs_leave_behind_is_not_data(tmp_path: Path, name: str) -> None:
    put(tmp_path / "TEM" / name)
    put(tmp_path / "TEM/a.dm3")

    assert locations(tmp_path) == ["TEM/a.dm3"]


def test_links_are_followed_inside_the_data_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root / "archive/old.dm3")
    put(root / "TEM/a.dm3")
    put(tmp_path / "elsewhere/secret.dm3")
    (root / "TEM/inside").symlink_to(root / "archive")
    (root / "TEM/outside").symlink_to(tmp_path / "elsewhere")
    (root / "TEM/secret.dm3").symlink_to(tmp_path / "elsewhere/secret.dm3")
    (root / "TEM/same.dm3").symlink_to(root / "TEM/a.dm3")
    (root / "TEM/round").symlink_to(root / "TEM")
    (root / "TEM/self").symlink_to(root / "TEM/self")

    assert locations(root) == ["TEM/a.dm3", "TEM/inside/old.dm3"]


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError) as caught:
        list_files(Path("TEM"), data_root=tmp_path)

    assert str(tmp_path / "TEM") in str(caught.value)
    assert "mounted" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_linked_file_is_listed_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    put(tmp_path / "share/archive/a.tif")
    (tmp_path / "share/archive/latest.tif").symlink_to("a.tif")
    (tmp_path / "share/TEM").symlink_to("archive")
    (tmp_path / "data").symlink_to("share")

    assert locations(tmp_path / "share", "archive") == ["archive/a.tif"]
    assert locations(tmp_path / "data", "archive") == ["archive/a.tif"]
    assert locations(tmp_path / "data", "TEM") == ["TEM/a.tif"]


def test_a_folder_with_nothing_in_it_is_taken_for_a_share_that_is_not_mounted(tmp_path: Path) -> None:
    (tmp_path / "TEM").mkdir()

    with pytest.raises(DataFolderError, match="is empty: check that the share is mounted; if it is, put any file"):
        list_files(Path("TEM"), data_root=tmp_path)


@pytest.mark.parametrize("entry", [".mounted", "2024", "Thumbs.db"])
def test_a_folder_with_anything_in_it_is_mounted(tmp_path: Path, entry: str) -> None:
    (tmp_path / "TEM" / entry).mkdir(parents=True)

    assert locations(tmp_path) == []


@pytest.mark.parametrize("folder", ["../other", "/"])
def test_a_folder_outside_the_data_root_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "root").mkdir()

    with pytest.raises(DataFolderError, match="outside the data root"):
        list_files(Path(folder), data_root=tmp_path / "root")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_private_folder_is_left_out_but_an_unreadable_root_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "TEM/a.dm3")
    private = tmp_path / "TEM/private"
    private.mkdir(mode=0)

    assert locations(tmp_path) == ["TEM/a.dm3"]
    with pytest.raises(DataFolderError):
        list_files(private, data_root=tmp_path)


def test_a_broken_clock_does_not_stop_the_listing(tmp_path: Path) -> None:
    put(tmp_path / "TEM/a.dm3")
    try:
        os.utime(put(tmp_path / "TEM/b.dm3"), (2**40, 2**40))
    except OverflowError:
        pytest.skip("the file system holds no such times")

    assert locations(tmp_path) == ["TEM/a.dm3", "TEM/b.dm3"]


def test_a_link_that_leaves_the_data_root_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "root"
    put(tmp_path / "elsewhere/secret.dm3")
    put(root / "TEM/a.dm3")
    (root / "TEM/outside.dm3").symlink_to(tmp_path / "elsewhere/secret.dm3")

    assert [locations(root) for _ in range(3)] == [["TEM/a.dm3"]] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"The link {root / 'TEM/outside.dm3'} leaves the data root and is not followed"
    ]


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("*.MIB", "TEM/raw/a.mib"),
        ("raw", "TEM/raw/a.mib"),  # a folder's name leaves out all that is in it
        ("tem/raw/*", "TEM/raw/a.mib"),
        ("*/raw/a.*", "TEM/raw/a.mib"),
        ("b.dm3", "TEM/b.dm3"),
        ("[bc].dm?", "TEM/b.dm3"),
    ],
)
def test_patterns_leave_out_names_and_paths(tmp_path: Path, pattern: str, left_out: str) -> None:
    everything = ["TEM/a.dm3", "TEM/b.dm3", "TEM/raw/a.mib"]
    for location in everything:
        put(tmp_path / location)
    put(tmp_path / "TEM/Thumbs.db")  # the patterns come on top of those that are built in

    listing = list_folder(Path("TEM"), data_root=tmp_path, choice=FileChoice(ignored=("*.unused", pattern)))

    assert [str(file.location) for file in listing.all()] == [one for one in everything if one != left_out]


def test_only_known_files_are_taken_where_that_is_asked_for(tmp_path: Path) -> None:
    for name in ("a.dm3", "A.DM3", "notes.txt", "program.exe", "no_extension", "scan_1.ser", "scan.emi"):
        put(tmp_path / "TEM" / name)

    listing = list_folder(Path("TEM"), data_root=tmp_path, choice=FileChoice(known=is_known))

    names = [file.path.name for file in listing.all()]
    assert names == ["A.DM3", "a.dm3", "notes.txt", "scan_1.ser"]


def test_a_clock_that_is_ahead_is_put_right_before_the_window_decides(tmp_path: Path) -> None:
    ahead = timedelta(minutes=10)
    put(tmp_path / "TEM/last.dm3", NOON + ahead)
    put(tmp_path / "TEM/too_early.dm3", NOON - HOUR + ahead)

    files = list_folder(Path("TEM"), data_root=tmp_path).between(NOON - HOUR, NOON, ahead)

    assert [(file.path.name, file.mtime) for file in files] == [("last.dm3", NOON)]
    assert files[0].unchanged()


def test_files_of_one_moment_come_folder_by_folder(tmp_path: Path) -> None:
    for location in ("TEM/a-1/x.dm3", "TEM/a/x.dm3", "TEM/a.dm3"):
        put(tmp_path / location)

    assert locations(tmp_path) == ["TEM/a/x.dm3", "TEM/a-1/x.dm3", "TEM/a.dm3"]


@pytest.mark.parametrize("change", ["longer", "newer"])
def test_a_file_that_was_written_to_since_it_was_listed_has_changed(tmp_path: Path, change: str) -> None:
    path = put(tmp_path / "TEM/a.dm3")
    (file,) = list_files(Path("TEM"), data_root=tmp_path)
    assert file.unchanged()

    put(path, *((NOON, b"data, more") if change == "longer" else (NOON + timedelta(seconds=1), b"data")))

    assert not file.unchanged()
