import errno
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from nexus_tasks import __version__
from nexus_tasks.exporters.archive.manifest import MANIFEST
from nexus_tasks.exporters.archive.session_folder import folder_of
from nexus_tasks.exporters.archive.store import open_store
from nexus_tasks.exporters.base import (
    Activity,
    ConfigurationError,
    ExportContext,
    ExportError,
    ExportResult,
    MemoryCheckpoint,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.destinations.archive import ArchiveDestination
from nexus_tasks.testing import sample_context
from tests.requirements import require_module

SESSION = "https://nemo.example.org/api/usage_events/?id=303"
LINK = "https://cdcs.example.org/data?id=5"
PASSWORD = "s3cret-of-the-lab"

Configure = Callable[..., None]


class InterruptedExportError(Exception):
    """What `take_turn` raises when the worker may not go on."""


@pytest.fixture
def root(tmp_path: Path, configure: Configure) -> Path:
    """A folder that is the archive."""
    folder = tmp_path / "the archive"
    folder.mkdir()
    configure(NX_ARCHIVE_URL=folder.as_uri(), NX_INSTRUMENT_DATA_PATH=tmp_path / "data")
    return folder


@pytest.fixture
def record(tmp_path: Path) -> ExportContext:
    return sample_context(tmp_path, SESSION)


@pytest.fixture
def archive() -> ArchiveDestination:
    return ArchiveDestination()


@pytest.fixture
def memory(configure: Configure) -> Iterator[str]:
    """An object store in memory; what is below its address is this test's."""
    require_module("fsspec", "nexus-tasks[archive]")
    from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped] # ships no types

    address = f"memory://{uuid.uuid4().hex}/records"
    configure(NX_ARCHIVE_URL=address)
    yield address
    MemoryFileSystem.store.clear()


def rebuilt(context: ExportContext, text: str = "second") -> ExportContext:
    folder = context.xml_file_path.parent
    return sample_context(folder, context.session_identifier, text=text, checkpoint=context.checkpoint)


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def manifest(root: Path, session: str = SESSION) -> dict[str, Any]:
    return dict(json.loads((root / folder_of(session) / MANIFEST).read_bytes()))


def named_files(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Every file that a manifest, or one of the versions before it, names."""
    found = [told["record"]]
    found += [each for activity in told["activities"] for each in activity["previews"] if each is not None]
    for version in told.get("earlier", []):
        found += named_files(version)
    return found


def keeps_its_word(root: Path) -> bool:
    """Whether everything is there that the manifest names, as it says; true without a manifest."""
    folder = root / folder_of(SESSION)
    if not (folder / MANIFEST).exists():
        return True
    contents = [((folder / each["name"]).read_bytes(), each) for each in named_files(manifest(root))]
    return all(
        (len(content), hashlib.sha256(content).hexdigest()) == (each["size"], each["sha256"])
        for content, each in contents
    )


# --- settings


def test_it_is_enabled_by_its_address(archive: ArchiveDestination, configure: Configure) -> None:
    told = {"without": archive.enabled}
    assert archive.validate_config() == (False, "The archive is not configured: set NX_ARCHIVE_URL.")
    configure(NX_ARCHIVE_URL="file:///srv/archive")
    assert told | {"with": archive.enabled} == {"without": False, "with": True}
    assert archive.validate_config() == (True, None)


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("/srv/archive", "file:///"),
        ("ftp://host/archive", "file:///"),
        ("https://bucket.example.org", "file:///"),
        ("simplecache::s3://bucket", "file:///"),
        ("s3://[bucket", "not an address"),
        ("file://server/archive", "three slashes"),
        ("file:///", "three slashes"),
        ("file:///srv/%00", "three slashes"),
        ("s3://", "bucket"),
        ("s3:///records", "bucket"),
        ("s3://no bucket", "bucket"),
        (f"s3://bucket/records?secret={PASSWORD}", "? or #"),
        ("file:///srv/archive#1", "? or #"),
    ],
)
def test_an_address_that_cannot_be_meant_so_is_refused_without_being_repeated(
    archive: ArchiveDestination, configure: Configure, record: ExportContext, address: str, word: str
) -> None:
    configure(NX_ARCHIVE_URL=address)
    valid, problem = archive.validate_config()
    assert not valid
    assert problem is not None
    assert word in problem
    assert PASSWORD not in problem
    with pytest.raises(ConfigurationError) as caught:
        archive.export(record)
    assert str(caught.value) == problem


@pytest.mark.parametrize("options", ['{"key": "s3cret-of-the-lab"', '["s3cret-of-the-lab"]', '"s3cret-of-the-lab"'])
def test_options_that_are_no_json_object_are_refused_without_being_repeated(
    archive: ArchiveDestination, configure: Configure, options: str
) -> None:
    require_module("s3fs", "nexus-tasks[archive]")
    configure(NX_ARCHIVE_URL="s3://lab-archive", NX_ARCHIVE_OPTIONS=options)
    valid, problem = archive.validate_config()
    assert not valid
    assert problem == 'NX_ARCHIVE_OPTIONS must be a JSON object: {"key": "…", "secret": "…"}.'


def test_without_the_extra_an_object_store_says_what_to_install(
    archive: ArchiveDestination, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    configure(NX_ARCHIVE_URL="s3://lab-archive")
    valid, problem = archive.validate_config()
    assert not valid
    assert problem == 'The archive needs s3fs for s3:// addresses: pip install "nexus-tasks[archive]"'


def test_a_folder_needs_no_extra(
    archive: ArchiveDestination, root: Path, record: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert archive.validate_config() == (True, None)
    assert archive.export(record).success


# --- what is kept


def test_record_previews_and_manifest_are_kept(archive: ArchiveDestination, root: Path, record: ExportContext) -> None:
    result = archive.export(record)

    told = manifest(root)
    assert keeps_its_word(root)
    assert set(files(root)) == {
        f"{folder_of(SESSION)}/{name}" for name in [MANIFEST, *(each["name"] for each in named_files(told))]
    }
    assert (root / folder_of(SESSION) / told["record"]["name"]).read_bytes() == record.xml_file_path.read_bytes()
    assert len(named_files(told)) == 3
    assert result.record_id == folder_of(SESSION)
    assert result.record_url is not None
    assert result.record_url.startswith("file:///")
    assert " " not in result.record_url
    assert urlsplit(result.record_url).path.endswith(MANIFEST)
    assert result.metadata == {"done": "created", "written": 3, "missing_previews": []}


def test_the_manifest_says_what_it_is_about(archive: ArchiveDestination, root: Path, record: ExportContext) -> None:
    record.previous_results["cdcs"] = ExportResult(True, "cdcs", record_id="5", record_url=LINK)
    record.previous_results["elabftw"] = ExportResult(False, "elabftw", error_message="it was away")
    archive.export(record)

    told = manifest(root)
    assert told["written_by"] == f"nexus-tasks {__version__}"
    assert told["session"] == {
        "identifier": SESSION,
        "instrument": record.instrument_pid,
        "user": "jsmith",
        "start": "2026-03-02T09:00:00-05:00",
        "end": "2026-03-02T10:30:00-05:00",
    }
    assert told["links"] == {"cdcs": {"id": "5", "url": LINK}}
    assert told["earlier"] == []
    version = record.activities[0].files[0].parent.name  # data files are named relative to NX_INSTRUMENT_DATA_PATH
    assert [activity["files"] for activity in told["activities"]] == [
        [f"{version}/survey.dm3", f"{version}/grain boundary.dm3"],
        [f"{version}/spectrum.msa"],
    ]
    assert [len(activity["previews"]) for activity in told["activities"]] == [2, 1]
    assert told["activities"][1]["previews"] == [None]


def test_the_same_again_writes_nothing(archive: ArchiveDestination, root: Path, record: ExportContext) -> None:
    archive.export(record)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert archive.export(record).metadata["done"] == "unchanged"
    assert archive.export(replace(record, checkpoint=MemoryCheckpoint())).metadata["done"] == "unchanged"
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_newer_program_and_another_day_are_no_reason_to_write(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    file = root / folder_of(SESSION) / MANIFEST
    older = json.dumps({**manifest(root), "archived": "2025-01-01T00:00:00+00:00", "written_by": "nexus-tasks 0.0.1"})
    file.write_text(older, encoding="utf-8")
    assert archive.export(record).metadata["done"] == "unchanged"
    assert file.read_text(encoding="utf-8") == older


def test_a_rebuilt_record_stands_beside_its_older_versions(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    first, before = manifest(root), files(root)
    for number, text in enumerate(("second", "third"), start=1):
        result = archive.export(rebuilt(record, text))
        assert result.metadata["done"] == "updated"
        assert len(manifest(root)["earlier"]) == number
    after = files(root)
    assert {name for name in before if before[name] != after.get(name)} == {f"{folder_of(SESSION)}/{MANIFEST}"}
    assert manifest(root)["earlier"][0] == {part: first[part] for part in ("archived", "record", "activities")}
    assert len({each["sha256"] for each in named_files(manifest(root))}) == 9
    assert keeps_its_word(root)


def test_a_link_that_comes_late_is_no_new_version(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    before = set(files(root))
    record.previous_results["cdcs"] = ExportResult(True, "cdcs", record_id="5", record_url=LINK)
    assert archive.export(record).metadata == {"done": "updated", "written": 0, "missing_previews": []}
    assert manifest(root)["links"] == {"cdcs": {"id": "5", "url": LINK}}
    assert manifest(root)["earlier"] == []
    assert set(files(root)) == before


def test_a_preview_that_is_gone_is_told_and_stops_nothing(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    gone = record.activities[0].previews[0]
    assert gone is not None
    gone.unlink()
    assert archive.export(record).metadata["missing_previews"] == [gone.name]
    assert manifest(root)["activities"][0]["previews"][0] is None
    assert keeps_its_word(root)


def without_previews(context: ExportContext) -> list[str]:
    """Take the previews from the disk; their names."""
    previews = [preview for activity in context.activities for preview in activity.previews if preview is not None]
    for preview in previews:
        preview.unlink()
    return [preview.name for preview in previews]


def test_a_preview_that_is_gone_after_it_was_kept_stays_in_the_manifest(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    activities = manifest(root)["activities"]
    gone = without_previews(record)
    record.previous_results["cdcs"] = ExportResult(True, "cdcs", record_id="5", record_url=LINK)
    assert archive.export(record).metadata == {"done": "updated", "written": 0, "missing_previews": gone}
    assert manifest(root)["activities"] == activities
    assert manifest(root)["links"] == {"cdcs": {"id": "5", "url": LINK}}


def test_a_preview_that_is_gone_from_the_archive_too_is_not_promised(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    without_previews(record)
    lost, kept = manifest(root)["activities"][0]["previews"]
    (root / folder_of(SESSION) / lost["name"]).unlink()
    archive.export(record)
    assert manifest(root)["activities"][0]["previews"] == [None, kept]
    assert keeps_its_word(root)


def test_the_preview_of_another_activity_is_not_taken_for_one_that_is_gone(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    without_previews(record)
    shown, plain = record.activities
    archive.export(replace(record, activities=[replace(shown, files=plain.files), plain]))
    assert manifest(root)["activities"][0]["previews"] == [None, None]


def test_the_preview_of_an_earlier_version_is_not_taken_for_one_that_is_gone(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    activities = manifest(root)["activities"]
    without_previews(record)
    archive.export(replace(rebuilt(record), activities=record.activities))  # the files may have changed meanwhile
    assert manifest(root)["activities"][0]["previews"] == [None, None]
    assert manifest(root)["earlier"][0]["activities"] == activities


@pytest.mark.parametrize("activities", [None, [], ["no activity"], [{"files": None}], [{"previews": [["no file"]]}]])
def test_activities_that_people_have_changed_in_a_manifest_are_said_anew(
    archive: ArchiveDestination, root: Path, record: ExportContext, activities: object
) -> None:
    archive.export(record)
    told = manifest(root)
    file = root / folder_of(SESSION) / MANIFEST
    file.write_text(json.dumps({**told, "activities": activities}), encoding="utf-8")
    without_previews(record)
    archive.export(record)
    assert [activity["files"] for activity in manifest(root)["activities"]] == [
        activity["files"] for activity in told["activities"]
    ]
    assert keeps_its_word(root)


def test_a_preview_that_cannot_be_read_is_tried_again(
    archive: ArchiveDestination, root: Path, record: ExportContext, tmp_path: Path
) -> None:
    context = replace(record, activities=[Activity((tmp_path / "a.dm3",), (tmp_path,))])  # a folder, not a file
    with pytest.raises(TransientError, match="cannot be read"):
        archive.export(context)
    assert MANIFEST not in {Path(name).name for name in files(root)}


@pytest.mark.parametrize(
    "identifier", ["../../etc/passwd", "a/b\\c:d*e?", "🔬 דגימה", "x" * 3000, "", ".", "..", "CON", "\ud800", "a\nb\0"]
)
def test_whatever_a_session_is_called_it_has_one_folder_of_its_own(
    archive: ArchiveDestination, root: Path, record: ExportContext, identifier: str
) -> None:
    context = replace(record, session_identifier=identifier)
    archive.export(context)
    archive.export(context)
    [folder] = root.iterdir()
    assert folder.name == folder_of(identifier)
    assert folder.name.isascii()
    assert len(folder.name) < 80
    assert manifest(root, identifier)["session"]["identifier"] == identifier


def test_a_file_name_that_is_not_utf_8_is_kept(archive: ArchiveDestination, root: Path, record: ExportContext) -> None:
    strange = Path(os.fsdecode(b"/mnt/\xff.dm3"))
    archive.export(replace(record, activities=[Activity((strange,), (None,))]))
    assert manifest(root)["activities"][0]["files"] == [strange.as_posix()]


def test_names_are_readable_in_the_manifest(archive: ArchiveDestination, root: Path, record: ExportContext) -> None:
    archive.export(replace(record, user="Ångström 🔬"))
    assert "Ångström 🔬" in (root / folder_of(SESSION) / MANIFEST).read_text(encoding="utf-8")


# --- what others do there


def test_what_others_put_there_is_not_touched(archive: ArchiveDestination, root: Path, record: ExportContext) -> None:
    archive.export(record)
    note, elsewhere = root / folder_of(SESSION) / "note.txt", root / "other" / "file"
    elsewhere.parent.mkdir()
    for file in (note, elsewhere):
        file.write_text("ours", encoding="utf-8")
    archive.export(rebuilt(record))
    assert note.read_text(encoding="utf-8") == elsewhere.read_text(encoding="utf-8") == "ours"


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"format": "something else"}', "{}", "another session's"])
def test_a_manifest_that_is_not_ours_is_left_alone(
    archive: ArchiveDestination, root: Path, record: ExportContext, content: str
) -> None:
    if content == "another session's":
        archive.export(replace(record, session_identifier="another"))
        content = (root / folder_of("another") / MANIFEST).read_text(encoding="utf-8")
    file = root / folder_of(SESSION) / MANIFEST
    file.parent.mkdir()
    file.write_text(content, encoding="utf-8")
    with pytest.raises(PermanentError, match="move it away"):
        archive.export(record)
    assert file.read_text(encoding="utf-8") == content
    assert list(file.parent.iterdir()) == [file]


def test_what_people_add_to_a_manifest_stays(archive: ArchiveDestination, root: Path, record: ExportContext) -> None:
    archive.export(record)
    file = root / folder_of(SESSION) / MANIFEST
    file.write_text(json.dumps({**manifest(root), "doi": "10.1000/1"}), encoding="utf-8")
    assert archive.export(record).metadata["done"] == "unchanged"
    archive.export(rebuilt(record))
    assert manifest(root)["doi"] == "10.1000/1"


def test_what_was_taken_away_is_put_back_only_when_asked(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    (root / folder_of(SESSION) / MANIFEST).unlink()
    with pytest.raises(
        PermanentError, match=f"retry '{SESSION[:10]}.*--destination archive --recreate".replace("?", ".")
    ):
        archive.export(rebuilt(record))
    assert archive.export(replace(record, checkpoint=MemoryCheckpoint())).metadata["done"] == "created"


def test_a_file_that_was_damaged_is_mended(archive: ArchiveDestination, root: Path, record: ExportContext) -> None:
    archive.export(record)
    damaged = root / folder_of(SESSION) / manifest(root)["record"]["name"]
    damaged.write_bytes(b"<Exp")
    assert archive.export(record).metadata == {"done": "updated", "written": 1, "missing_previews": []}
    assert keeps_its_word(root)


def test_another_address_gets_a_copy_of_its_own(
    archive: ArchiveDestination, root: Path, record: ExportContext, tmp_path: Path, configure: Configure
) -> None:
    archive.export(record)
    new = tmp_path / "new"
    new.mkdir()
    configure(NX_ARCHIVE_URL=new.as_uri())
    assert archive.export(record).metadata["done"] == "created"
    assert {name.rpartition("/")[2] for name in files(new)} == {name.rpartition("/")[2] for name in files(root)}


# --- what goes wrong


def test_whenever_it_is_interrupted_the_manifest_keeps_its_word(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    context, interruptions = rebuilt(record), 0
    while True:
        turns = iter(range(interruptions))

        def take_turn(turns: Iterator[int] = turns) -> None:
            if next(turns, None) is None:
                raise InterruptedExportError

        try:
            archive.export(replace(context, take_turn=take_turn))
        except InterruptedExportError:
            interruptions += 1
            assert keeps_its_word(root)
            (root / folder_of(SESSION)).rename(root / "aside")  # each time from the same beginning
            archive.export(replace(record, checkpoint=MemoryCheckpoint()))
            for path in (root / "aside").iterdir():
                path.unlink()
            (root / "aside").rmdir()
        else:
            break
    assert interruptions == 6  # the listing, the manifest, record, two previews, the manifest
    assert manifest(root)["record"]["size"] == context.xml_file_path.stat().st_size
    assert keeps_its_word(root)


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.ENOSPC, ConfigurationError, "full"),
        (errno.EDQUOT, ConfigurationError, "quota"),
        (errno.EROFS, ConfigurationError, "read-only"),
        (errno.EACCES, ConfigurationError, "right"),
        (errno.EIO, TransientError, "disk"),
        (errno.ESTALE, TransientError, "disk"),
    ],
)
def test_a_write_that_fails_leaves_nothing_behind(
    archive: ArchiveDestination,
    root: Path,
    record: ExportContext,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[ExportError],
    word: str,
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    (root / folder_of(SESSION)).mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(kind, match=word):
            archive.export(record)
    assert files(root) == {}
    assert archive.export(record).success


def test_a_folder_that_cannot_be_flushed_for_lack_of_support_is_used_all_the_same(
    archive: ArchiveDestination, root: Path, record: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def without_folders(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112 - a file descriptor's link
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(handle)

    monkeypatch.setattr(os, "fsync", without_folders)
    assert archive.export(record).success
    assert keeps_its_word(root)


def test_a_disk_that_is_not_mounted_is_something_to_mend_and_nothing_is_written_in_its_place(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    root.rmdir()
    with pytest.raises(ConfigurationError, match="make it, or mount what it is on"):
        archive.export(record)
    assert not root.exists()


def test_a_disk_that_was_unmounted_is_not_taken_for_a_manifest_that_somebody_took_away(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    root.rename(root.with_name("unmounted"))
    with pytest.raises(ConfigurationError, match="mount what it is on"):
        archive.export(record)
    root.with_name("unmounted").rename(root)
    assert archive.export(record).metadata["done"] == "unchanged"


@pytest.mark.parametrize("session", [SESSION, "a new one"])
def test_an_empty_mount_point_is_something_to_mend_and_not_written_to(
    archive: ArchiveDestination, root: Path, record: ExportContext, session: str
) -> None:
    archive.export(record)
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    context = record
    if session != SESSION:
        context = replace(record, session_identifier=session, checkpoint=MemoryCheckpoint())
    with pytest.raises(ConfigurationError, match="is empty although records were archived there"):
        archive.export(context)
    assert list(root.iterdir()) == []

    root.rmdir()
    root.with_name("unmounted").rename(root)
    assert archive.export(context).success


def test_an_update_of_what_an_earlier_release_archived_knows_an_empty_mount_point_too(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    with pytest.raises(ConfigurationError, match="Mount what it is on"):
        archive.export(replace(record, shared=MemoryCheckpoint()))


def test_a_folder_that_is_said_to_have_been_emptied_on_purpose_is_used_again(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    archive.export(record)
    root.rename(root.with_name("thrown away"))
    root.mkdir()
    (root / "begun anew").touch()
    assert archive.export(replace(record, checkpoint=MemoryCheckpoint())).metadata["done"] == "created"


def test_a_folder_that_another_worker_begins_to_use_is_not_taken_for_an_empty_one(root: Path) -> None:
    def used_just_now() -> bool:
        (root / "another session").mkdir()
        return True

    assert open_store(lambda: None, used_just_now).sizes(folder_of(SESSION)) == {}


def test_a_file_where_the_session_s_folder_should_be_is_in_the_way(
    archive: ArchiveDestination, root: Path, record: ExportContext
) -> None:
    (root / folder_of(SESSION)).write_text("mine", encoding="utf-8")
    with pytest.raises(PermanentError, match="move it away"):
        archive.export(record)
    assert files(root) == {folder_of(SESSION): b"mine"}


# --- checks


def test_the_checks_of_a_folder_tell_what_may_be_done_there(archive: ArchiveDestination, root: Path) -> None:
    assert [(check.name, check.look(), check.needed) for check in archive.checks()] == [
        ("reachable", f"the folder {root}", True),
        ("readable", f"may read {root}", False),
        ("writable", f"may write to {root}", False),
    ]
    assert files(root) == {}


def test_the_checks_say_that_the_folder_is_not_there(archive: ArchiveDestination, root: Path) -> None:
    root.rmdir()
    with pytest.raises(ConfigurationError, match="make it, or mount"):
        archive.checks()[0].look()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_the_checks_say_that_the_folder_may_not_be_written_to(archive: ArchiveDestination, root: Path) -> None:
    root.chmod(0o555)
    with pytest.raises(ConfigurationError, match="may not write to"):
        archive.checks()[2].look()
    assert archive.checks()[1].look()


# --- through fsspec


def test_an_object_store_keeps_the_same_as_a_folder(
    archive: ArchiveDestination, memory: str, record: ExportContext
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    result = archive.export(record)
    assert result.record_url is None  # nobody can open it
    assert len(MemoryFileSystem.store) == 4
    assert archive.export(record).metadata["done"] == "unchanged"
    archive.export(rebuilt(record))
    prefix = f"/{memory.removeprefix('memory://')}/{folder_of(SESSION)}/"
    held = {name.removeprefix(prefix): file.getvalue() for name, file in MemoryFileSystem.store.items()}
    told = json.loads(held.pop(MANIFEST))
    assert {each["name"]: each["sha256"] for each in named_files(told)} == {
        name: hashlib.sha256(content).hexdigest() for name, content in held.items()
    }


def test_a_call_that_breaks_off_is_known_without_the_libraries_for_s3(
    archive: ArchiveDestination, memory: str, record: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def break_off(*_: object, **__: object) -> None:
        raise ConnectionResetError

    for module in ("aiohttp", "botocore"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", break_off)
    with pytest.raises(TransientError, match="broke off before its answer was complete"):
        archive.export(record)


def test_the_checks_of_an_object_store_change_nothing(archive: ArchiveDestination, memory: str) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    told = {check.name: check.look() for check in archive.checks()}
    assert told["writable"] == "not tried: only a write can tell"
    assert MemoryFileSystem.store == {}
