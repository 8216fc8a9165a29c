"""The archive against an S3 server that checks who calls."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.archive.manifest import MANIFEST
from nexus_tasks.exporters.archive.session_folder import folder_of
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportError,
    NothingDoneError,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.destinations.archive import ArchiveDestination
from nexus_tasks.testing import sample_context
from tests.requirements import require_module

if TYPE_CHECKING:
    from tests.integration.exporters.object_store import ObjectStore

SESSION = "2026-03-02_09_abc"
WRONG = "wrong-and-secret-too"


@pytest.fixture(scope="module")
def running() -> Iterator["ObjectStore"]:
    for module in ("moto", "s3fs"):
        require_module(module, "nexus-tasks[archive,dev]")
    from tests.integration.exporters.object_store import ObjectStore

    with ObjectStore() as store:
        yield store


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()

    monkeypatch.chdir(tmp_path)
    yield set_all
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture
def store(running: "ObjectStore", configure: Callable[..., None]) -> "ObjectStore":
    """Empty, and named by the settings."""
    running.reset()
    configure(NX_ARCHIVE_URL=running.address, NX_ARCHIVE_OPTIONS=running.options())
    return running


@pytest.fixture
def archive() -> ArchiveDestination:
    return ArchiveDestination()


@pytest.fixture
def record(tmp_path: Path) -> ExportContext:
    return sample_context(tmp_path, SESSION)


def folder() -> str:
    from tests.integration.exporters.object_store import PREFIX

    return f"{PREFIX}/{folder_of(SESSION)}"


def manifest(store: "ObjectStore") -> dict[str, Any]:
    return dict(json.loads(store.held()[f"{folder()}/{MANIFEST}"]))


def test_a_record_is_kept_with_its_previews_and_the_manifest_comes_last(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext
) -> None:
    result = archive.export(record)

    held, told = store.held(), manifest(store)
    assert held[f"{folder()}/{told['record']['name']}"] == record.xml_file_path.read_bytes()
    assert len(held) == 4
    assert all(name.startswith(f"{folder()}/") for name in held)
    assert store.writes[-1].endswith(f"/{MANIFEST}")
    assert result.record_id == folder_of(SESSION)
    assert result.record_url == f"{store.address}/{folder_of(SESSION)}/{MANIFEST}"
    assert result.metadata == {"done": "created", "written": 3, "missing_previews": []}


def test_the_same_again_only_reads(archive: ArchiveDestination, store: "ObjectStore", record: ExportContext) -> None:
    archive.export(record)
    store.calls.clear()
    assert archive.export(record).metadata["done"] == "unchanged"
    assert [call.partition(" ")[0] for call in store.calls] == ["GET", "GET"]  # the manifest, and one listing


def test_a_rebuilt_record_stands_beside_its_older_version(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, tmp_path: Path
) -> None:
    archive.export(record)
    first = manifest(store)["record"]
    archive.export(sample_context(tmp_path, SESSION, text="second", checkpoint=record.checkpoint))
    assert manifest(store)["earlier"][0]["record"] == first
    assert f"{folder()}/{first['name']}" in store.held()


def test_what_others_put_there_is_not_touched(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext
) -> None:
    store.put(f"{folder()}/note.txt", b"ours")
    store.put(f"{folder()}/{MANIFEST}", b"{}")
    with pytest.raises(PermanentError, match="move it away"):
        archive.export(record)
    assert set(store.held().values()) == {b"ours", b"{}"}


CALLS = 5  # of the first export of a record: the listing, the record, two previews, the manifest


@pytest.mark.parametrize("last", range(1, CALLS + 1))
def test_a_store_that_stops_on_the_way_gets_the_rest_when_it_is_back(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, last: int
) -> None:
    turns = itertools.count(1)

    def take_turn() -> None:
        if next(turns) == last:
            store.stop()

    with pytest.raises(NothingDoneError, match="refused the connection"):
        archive.export(replace(record, take_turn=take_turn))
    store.start()
    assert f"{folder()}/{MANIFEST}" not in store.held()
    there, before = set(store.held()), len(store.writes)
    archive.export(record)
    assert len(store.held()) == 4
    assert len(store.writes) - before == 4 - len(there)  # what was there is not written again


def test_a_turn_is_taken_before_each_call(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext
) -> None:
    turns: list[int] = []
    archive.export(replace(record, take_turn=lambda: turns.append(len(store.calls))))
    assert len(turns) == CALLS
    assert turns == sorted(set(turns))


@pytest.mark.parametrize(("number", "name"), [(1, ".xml"), (1, ".png"), (2, ".png"), (1, MANIFEST)])
def test_a_lost_answer_doubles_nothing(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, number: int, name: str
) -> None:
    store.lose_answers(number, name=name)
    for _ in range(number):
        with pytest.raises(TransientError, match="504"):
            archive.export(record)
    archive.export(record)
    assert len(store.held()) == 4
    content_writes = [call for call in store.writes if not call.endswith(MANIFEST)]
    assert len(content_writes) == len(set(content_writes)) == 3  # what arrived is not sent again


@pytest.mark.parametrize("name", ["", MANIFEST], ids=["the listing", "a file"])
def test_an_answer_that_is_cut_in_the_middle_is_something_that_time_can_mend(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, name: str
) -> None:
    archive.export(record)
    store.cut_answers(1, name=name)
    with pytest.raises(TransientError, match="broke off before its answer was complete"):
        archive.export(record)
    assert archive.export(record).metadata["done"] == "unchanged"


def test_a_missing_bucket_is_something_to_mend(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, configure: Callable[..., None]
) -> None:
    configure(NX_ARCHIVE_URL="s3://no-such-bucket/records")
    with pytest.raises(ConfigurationError, match="bucket is not there: check NX_ARCHIVE_URL"):
        archive.export(record)


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_credentials_that_are_refused_are_something_to_mend_and_are_not_told(
    archive: ArchiveDestination,
    store: "ObjectStore",
    record: ExportContext,
    configure: Callable[..., None],
    wrong: str,
) -> None:
    configure(NX_ARCHIVE_OPTIONS=store.options(**{wrong: WRONG}))
    with pytest.raises(ConfigurationError, match="check the keys in NX_ARCHIVE_OPTIONS") as caught:
        archive.export(record)
    told = str(caught.value)
    assert "403" in told
    assert not any(secret in told for secret in (store.key, store.secret, WRONG))
    assert caught.value.__context__ is None  # nor by what a log would show with it


def test_a_user_who_may_only_read_is_something_to_mend(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, configure: Callable[..., None]
) -> None:
    configure(NX_ARCHIVE_OPTIONS=store.options(key=store.reader_key, secret=store.reader_secret))
    with pytest.raises(ConfigurationError, match="AccessDenied"):
        archive.export(record)
    assert store.held() == {}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((503, b"<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"), TransientError),
        ((500, b"<Error><Code>InternalError</Code><Message>We failed.</Message></Error>"), TransientError),
        ((502, b"<html>Bad Gateway</html>"), TransientError),
        ((429, b""), TransientError),
        ((400, b"<Error><Code>RequestTimeout</Code><Message>Too slow.</Message></Error>"), TransientError),
        ((400, b"<Error><Code>ExpiredToken</Code><Message>Expired.</Message></Error>"), ConfigurationError),
        ((403, b""), ConfigurationError),
        ((400, b"<Error><Code>EntityTooLarge</Code><Message>Too large.</Message></Error>"), PermanentError),
    ],
    ids=lambda value: value[1][13:25].decode() or str(value[0]) if isinstance(value, tuple) else None,
)
def test_what_the_store_answers_is_sorted(
    archive: ArchiveDestination,
    store: "ObjectStore",
    record: ExportContext,
    answer: tuple[int, bytes],
    kind: type[ExportError],
) -> None:
    store.fault = lambda method, _: answer if method == "PUT" else None
    with pytest.raises(kind):
        archive.export(record)
    assert len(store.writes) == 1  # repeating is the worker's business
    store.fault = None
    assert archive.export(record).success


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_page_of_a_proxy_in_place_of_an_answer_is_something_that_time_can_mend(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, method: str
) -> None:
    store.fault = lambda called, _: (200, b"<html><p>Log in here") if called == method else None
    with pytest.raises(TransientError):
        archive.export(record)
    assert store.held() == {}


def test_a_store_that_says_nothing_is_given_up(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, configure: Callable[..., None]
) -> None:
    enough = threading.Event()

    def silence(method: str, _: str) -> tuple[int, bytes] | None:
        if method == "PUT":
            enough.wait(10)
        return None

    store.fault = silence
    configure(NX_CALL_DEADLINE="0.3")
    try:
        with pytest.raises(TransientError, match=r"did not answer within 0\.3"):
            archive.export(record)
    finally:
        enough.set()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"endpoint_url": "nonsense"}, "endpoint"),
        ({"no_such_option": "1"}, "no_such_option"),
    ],
)
def test_options_that_cannot_be_meant_so_are_something_to_mend(
    archive: ArchiveDestination,
    store: "ObjectStore",
    record: ExportContext,
    configure: Callable[..., None],
    options: dict[str, str],
    word: str,
) -> None:
    configure(NX_ARCHIVE_OPTIONS=store.options(**options))
    with pytest.raises(ConfigurationError, match=f"check NX_ARCHIVE_URL and NX_ARCHIVE_OPTIONS.*{word}") as caught:
        archive.export(record)
    assert store.secret not in str(caught.value)


def test_a_host_that_nobody_knows_is_something_that_time_can_mend(
    archive: ArchiveDestination, store: "ObjectStore", record: ExportContext, configure: Callable[..., None]
) -> None:
    configure(NX_ARCHIVE_OPTIONS=store.options(endpoint_url="http://no-such-host.invalid"))
    with pytest.raises(TransientError):
        archive.export(record)


def looked(archive: ArchiveDestination) -> dict[str, str]:
    told = {}
    for check in archive.checks():
        try:
            told[check.name] = check.look()
        except ExportError as error:
            told[check.name] = f"{type(error).__name__}: {error}"
            if check.needed:
                break
    return told


def test_the_checks_tell_how_the_store_is(
    archive: ArchiveDestination, store: "ObjectStore", configure: Callable[..., None]
) -> None:
    assert looked(archive) == {
        "reachable": "it answers",
        "bucket exists": "the bucket lab-archive",
        "readable": "files can be listed",
        "writable": "not tried: only a write can tell",
    }
    assert store.writes == []

    configure(NX_ARCHIVE_URL="s3://no-such-bucket")
    told = looked(archive)
    assert told["reachable"] == "it answers"
    assert "The archive's bucket is not there" in told["bucket exists"]
    assert len(told) == 2

    configure(NX_ARCHIVE_URL=store.address, NX_ARCHIVE_OPTIONS=store.options(secret=WRONG))
    told = looked(archive)
    assert told["reachable"] == "it answers"
    assert "does not let us in" in told["bucket exists"]

    configure(NX_ARCHIVE_OPTIONS=store.options())
    store.stop()
    try:
        told = looked(archive)
    finally:
        store.start()
    assert list(told) == ["reachable"]
    assert "refused the connection" in told["reachable"]
