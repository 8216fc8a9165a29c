"""`nexus-tasks demo`, as somebody runs it who has nothing but this repository."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lxml import etree

from nexus_tasks.builder.schema import NAMESPACE, validate
from nexus_tasks.sandbox.process_record import recorded
from nexus_tasks.sandbox.waiting import wait_until
from tests.acceptance.installation import Finished, begin, finish, the_only_line
from tests.requirements import require_module, wanted

DEADLINE = 120.0  # seconds for one demo
SHARED = Path(__file__).resolve().parents[3] / "shared"
RECORD_FILES = SHARED / "data" / "test_record_files.tar.gz"
SCHEMA = SHARED / "specs" / "nexus-experiment.xsd"
DESTINATIONS = ["cdcs", "elabftw", "labarchives"]


def demo(folder: Path, *arguments: str | Path) -> Finished:
    return finish(begin(["demo", "--dir", folder, "--json", *arguments], {}, folder.parent), DEADLINE)


def processes_in(folder: Path) -> list[str]:
    """What works in a folder, or was started with a path in it."""
    found = []
    for process in psutil.process_iter():
        try:
            places = [process.cwd(), *process.cmdline()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(str(folder) in place for place in places):
            found.append(" ".join(places))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "sandbox"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the lab of whoever runs the demo keeps its records."""
    return tmp_path_factory.mktemp("archive")


@pytest.fixture(scope="module")
def first(folder: Path, archive: Path) -> Iterator[Finished]:
    """A demo in a folder that did not exist, from a shell with settings; its processes can be seen at all."""
    settings = {"NX_ARCHIVE_URL": archive.as_uri()}
    process = begin(["demo", "--dir", folder, "--json", "--sessions", "2"], settings, folder.parent)
    try:
        wait_until(lambda: process.poll() is not None or len(processes_in(folder)) > 3, 60, "the demo's processes")
        yield finish(process, DEADLINE)
    finally:
        process.kill()  # if it was waited for in vain; its lifeline ends the others
        process.communicate()


def test_the_demo_ends_well_and_prints_the_document(first: Finished) -> None:
    assert first.status == 0, first.errors
    document = first.document
    assert set(document) == {"seconds", "sessions"}
    assert 0 < document["seconds"] < DEADLINE
    assert len(document["sessions"]) == 2
    for session in document["sessions"]:
        assert set(session) == {"session_identifier", "record_status", "record", "deliveries"}
        assert session["record_status"] == "COMPLETED"
        assert sorted(delivery["destination"] for delivery in session["deliveries"]) == DESTINATIONS
        for delivery in session["deliveries"]:
            assert set(delivery) == {"destination", "state", "record_id", "record_url", "attempts"}
            assert delivery["state"] == "succeeded"
            assert delivery["attempts"] == 1
            assert delivery["record_id"]
            assert delivery["record_url"].startswith("http://127.0.0.1:")
    assert len({session["session_identifier"] for session in document["sessions"]}) == 2


def test_the_records_can_be_looked_at_afterwards(first: Finished, folder: Path) -> None:
    for session in first.document["sessions"]:
        record = Path(session["record"])
        assert record.is_relative_to(folder)
        validate(record.read_bytes())
        assert session["session_identifier"] in record.read_text(encoding="utf-8")
    assert list((folder / "data" / "previews").rglob("*.png"))
    assert list((folder / "logs").glob("*.log"))


def test_nothing_is_written_into_the_archive_of_the_shell(first: Finished, archive: Path) -> None:
    assert list(archive.iterdir()) == []


def test_no_process_is_left_behind(first: Finished, folder: Path) -> None:
    wait_until(lambda: not processes_in(folder), 5, "the last process of the demo to end")
    assert recorded(folder) == []


def test_a_folder_that_is_no_sandbox_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter-1.txt").write_text("three years of work", encoding="utf-8")

    line = the_only_line(demo(folder))

    assert str(folder) in line
    assert "--dir" in line
    assert [path.name for path in folder.iterdir()] == ["chapter-1.txt"]
    assert (folder / "chapter-1.txt").read_text(encoding="utf-8") == "three years of work"


def test_a_data_folder_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    line = the_only_line(demo(tmp_path / "sandbox", "--data", tmp_path / "not-mounted"))

    assert "not-mounted" in line
    assert not (tmp_path / "sandbox").exists()


# --- a second one, in the same folder, on real files where they are there


@pytest.fixture(scope="module")
def second(first: Finished, folder: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """In a folder with a lab's `.env`."""
    (folder / "left-over").touch()
    (folder.parent / ".env").write_text(f"NX_ARCHIVE_URL={archive.as_uri()}\n", encoding="utf-8")
    arguments: list[str | Path] = ["--sessions", "1"]
    if RECORD_FILES.is_file():
        arguments = ["--data", tmp_path_factory.mktemp("real")]
        with tarfile.open(RECORD_FILES) as files:
            files.extractall(arguments[1], filter="data")  # with their times
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NX_")]:
            patch.delenv(name)  # as in a shell, where the empty ones of a test run are not set
        return demo(folder, *arguments)


@pytest.fixture(scope="module")
def real(second: Finished) -> dict[str, dict[str, Any]]:
    """The sessions of the demo on real microscope files, by instrument."""
    wanted(RECORD_FILES.is_file(), "the shared microscope files are not beside the repository")
    require_module("rsciio", "nexus-tasks[readers]")
    return {
        instrument_of(Path(session["record"])): session for session in second.document["sessions"] if session["record"]
    }


def test_a_second_demo_in_the_same_folder_starts_from_nothing(second: Finished, first: Finished, folder: Path) -> None:
    assert second.status == 0, second.errors
    sessions = second.document["sessions"]
    assert sessions
    assert {session["record_status"] for session in sessions} == {"COMPLETED"}
    assert all(Path(session["record"]).is_file() for session in sessions)
    if RECORD_FILES.is_file():
        of_the_first = [Path(session["record"]) for session in first.document["sessions"]]
        assert not any(record.exists() for record in of_the_first)
    assert not (folder / "left-over").exists()


def test_nothing_is_written_into_the_archive_of_the_env_file(second: Finished, archive: Path) -> None:
    destinations = [item["destination"] for session in second.document["sessions"] for item in session["deliveries"]]
    assert sorted(set(destinations)) == DESTINATIONS
    assert list(archive.iterdir()) == []


def instrument_of(record: Path) -> str:
    [instrument] = etree.fromstring(record.read_bytes()).iterfind(f".//{{{NAMESPACE}}}instrument")
    return str(instrument.get("pid"))


def said(record: Path, name: str) -> set[str]:
    """Every value that a record gives for `name`, with its unit."""
    found = etree.fromstring(record.read_bytes()).iterfind(".//*[@name]")
    return {f"{one.text} {one.get('unit') or ''}".strip() for one in found if one.get("name") == name}


@pytest.mark.parametrize(
    ("instrument", "day", "voltages"),
    [
        # its dm3 and ser have 300 kV; the test set keeps a Tescan's, a Fibics' and an Orion's tif in the same folder
        ("Titan_TEM", "2018-11-13", {"300 kV", "15 kV", "30 kV", "29.997 kV"}),
        ("JEOL_TEM", "2019-07-24", set()),  # its files hold none
        ("Nexus_Test_Instrument", "2021-08-02", {"300 kV"}),
    ],
)
def test_real_files_become_valid_records_with_dates_and_voltages(
    real: dict[str, dict[str, Any]], instrument: str, day: str, voltages: set[str]
) -> None:
    session = real[instrument]
    record = Path(session["record"])

    assert session["record_status"] == "COMPLETED"
    assert {delivery["state"] for delivery in session["deliveries"]} == {"succeeded"}
    assert sorted(delivery["destination"] for delivery in session["deliveries"]) == DESTINATIONS
    if SCHEMA.is_file():
        validate(record.read_bytes(), SCHEMA)
    starts = etree.fromstring(record.read_bytes()).iterfind(f".//{{{NAMESPACE}}}startTime")
    assert {str(start.text)[:10] for start in starts} == {day}
    assert said(record, "Acceleration Voltage") == voltages
