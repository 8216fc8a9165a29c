import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nexus_tasks.delivery import documents
from nexus_tasks.delivery.documents import (
    ARCHIVE_FOLDER,
    DocumentError,
    StoreError,
    locate,
    move_to_archive,
    path_of,
    store,
)
from nexus_tasks.exporters.base import TransientError
from tests.full_disk import full_disk

CONTENT = "<Experiment>Größe</Experiment>\r\n".encode()
SHA256 = documents.sha256_of(CONTENT)
TITLE = "2025-01-27_FEI-Titan_abc123"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where documents go; it is not there before the first one."""
    return tmp_path / "data" / "records"


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_document_is_stored_byte_for_byte_under_its_title(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    assert name.startswith(TITLE + "-")
    assert name.endswith(".xml")
    assert (folder / name).read_bytes() == CONTENT
    assert files_in(folder) == [name]


def test_other_workers_may_read_a_document(folder: Path) -> None:
    assert (folder / store(folder, TITLE, CONTENT)).stat().st_mode & 0o777 == 0o644


def test_the_same_content_twice_is_one_file_left_as_it_was(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    before = (folder / name).stat()
    assert store(folder, TITLE, CONTENT) == name
    after = (folder / name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files_in(folder) == [name]


def test_other_contents_are_another_file_and_the_first_stays(folder: Path) -> None:
    first = store(folder, TITLE, CONTENT)
    second = store(folder, TITLE, b"<Experiment/>")
    assert files_in(folder) == sorted([first, second])
    assert (folder / first).read_bytes() == CONTENT


def test_content_that_is_archived_already_is_not_stored_again(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    move_to_archive(folder, name)
    assert store(folder, TITLE, CONTENT) == name
    assert files_in(folder) == [f"{ARCHIVE_FOLDER}/{name}"]


def test_storing_puts_a_damaged_document_right(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    (folder / name).write_bytes(b"half of i")
    assert store(folder, TITLE, CONTENT) == name
    assert locate(folder, name, SHA256).read_bytes() == CONTENT


def test_a_failed_write_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space left"):
        store(folder, TITLE, CONTENT)
    assert files_in(folder) == []


def test_on_a_full_disk_a_damaged_document_stays_as_it_was_and_nothing_is_added(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    (folder / name).write_bytes(b"half of i")
    with full_disk(room=10), pytest.raises(StoreError, match="File too large"):
        store(folder, TITLE, CONTENT)
    assert files_in(folder) == [name]
    assert (folder / name).read_bytes() == b"half of i"


def test_what_cannot_be_stored_is_told_with_the_settings_that_say_where(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(
        StoreError, match=r"^The record file .*\.xml cannot .*a file \(File exists\): set NX_RECORDS_PATH"
    ):
        store(tmp_path / "a file", TITLE, CONTENT)


def test_many_at_once_store_one_complete_document(folder: Path) -> None:
    together = threading.Barrier(8)
    content = CONTENT * 10_000

    def store_together(_: int) -> str:
        together.wait(10)
        return store(folder, TITLE, content)

    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(store_together, range(8)))
    assert len(names) == 1
    assert files_in(folder) == sorted(names)
    assert (folder / names.pop()).read_bytes() == content


def test_a_document_is_found_where_it_was_stored(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    assert locate(folder, name, SHA256) == folder / name
    assert path_of(folder, name) == folder / name


def test_a_document_is_found_in_the_archive(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    assert move_to_archive(folder, name)
    assert locate(folder, name, SHA256) == folder / ARCHIVE_FOLDER / name
    assert path_of(folder, name) == folder / ARCHIVE_FOLDER / name


def test_a_document_in_both_places_is_found(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    (folder / ARCHIVE_FOLDER).mkdir()
    (folder / ARCHIVE_FOLDER / name).write_bytes(CONTENT)
    assert locate(folder, name, SHA256).read_bytes() == CONTENT


def test_a_damaged_document_does_not_hide_the_good_one_in_the_archive(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    move_to_archive(folder, name)
    (folder / name).write_bytes(b"half of i")
    assert locate(folder, name, SHA256) == folder / ARCHIVE_FOLDER / name


def test_archiving_again_changes_nothing(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    assert move_to_archive(folder, name)
    assert move_to_archive(folder, name)
    assert files_in(folder) == [f"{ARCHIVE_FOLDER}/{name}"]


def test_archiving_a_document_that_is_gone_says_so(folder: Path) -> None:
    assert not move_to_archive(folder, "gone.xml")


def test_a_changed_document_is_refused_with_what_to_do(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    (folder / name).write_bytes(CONTENT + b" ")
    with pytest.raises(DocumentError) as refused:
        locate(folder, name, SHA256)
    message = str(refused.value)
    assert name in message
    assert "has changed" in message
    assert "put the original back" in message
    assert "\n" not in message


def test_a_document_that_is_gone_is_refused_with_what_to_do(folder: Path) -> None:
    name = store(folder, TITLE, CONTENT)
    (folder / name).unlink()
    with pytest.raises(DocumentError) as refused:
        locate(folder, name, SHA256)
    message = str(refused.value)
    assert name in message
    assert str(folder) in message
    assert "restore it" in message


def test_a_document_that_cannot_be_read_is_refused_like_one_that_is_gone(folder: Path) -> None:
    (folder / "unreadable.xml").mkdir(parents=True)
    with pytest.raises(DocumentError, match=r"unreadable\.xml"):
        locate(folder, "unreadable.xml", SHA256)


def test_time_can_mend_a_document() -> None:
    assert issubclass(DocumentError, TransientError)
