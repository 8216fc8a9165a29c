"""When a session is built, when it waits for files, and with which files; real files and rows, no destinations."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from sqlalchemy import text

from nexus_tasks.builder.files import Listing, list_folder
from nexus_tasks.builder.record_builder import SessionOutcome, process_new_records, too_early
from nexus_tasks.builder.schema import NAMESPACE
from nexus_tasks.db import builds, records, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.deployment import Deployment
from nexus_tasks.monitoring.status import view
from nexus_tasks.states import SessionStatus
from tests.integration.builder.conftest import Lab

HOUR = timedelta(hours=1)
NAMES = {"n": NAMESPACE}
GUIDE = Path(__file__).parents[3] / "docs" / "failures.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files" / "SEM"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def put(path: Path, ago: timedelta) -> None:
    path.write_text("seen", encoding="utf-8")
    moment = (datetime.now(UTC) - ago).timestamp()
    os.utime(path, (moment, moment))


def add(deployment: Deployment, *identifiers: str, ended: timedelta = HOUR, clock_offset: float = 0) -> None:
    """Sessions of two hours, the first ended so long ago, each further one a day earlier."""
    with transaction(deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow("SEM-1", None, None, "SEM", "Europe/Berlin", clock_offset))
        for day, identifier in enumerate(identifiers):
            end = datetime.now(UTC) - ended - timedelta(days=day)
            row = SessionRow(identifier, "SEM-1", end - 2 * HOUR, end, "ann", SessionStatus.TO_BE_BUILT)
            sessions.add_session(connection, row)


def end(deployment: Deployment, ended: timedelta) -> None:
    """Move the end of the only session."""
    with transaction(deployment.engine) as connection:
        connection.execute(
            text("UPDATE session_log SET timestamp = :end WHERE event_type = 'END'"), {"end": datetime.now(UTC) - ended}
        )


def build(deployment: Deployment, *identifiers: str, rebuild: bool = False) -> SessionOutcome:
    (outcome,) = process_new_records(deployment, identifiers=identifiers or None, rebuild=rebuild)
    return outcome


def status_of(deployment: Deployment, identifier: str = "s") -> SessionStatus:
    with transaction(deployment.engine) as connection:
        return sessions.sessions(connection, [identifier])[0].status


def record_of(deployment: Deployment, identifier: str = "s") -> etree._Element:
    with transaction(deployment.engine) as connection:
        record = records.lock_of_session(connection, identifier)
    return etree.parse(deployment.settings.records_path / record.document).getroot()


def files_of(deployment: Deployment) -> list[str]:
    return [str(name.text) for name in record_of(deployment).iterfind(".//n:dataset/n:name", NAMES)]


def test_a_session_with_a_file_that_may_still_grow_is_left_for_a_later_build(lab: Lab, folder: Path) -> None:
    deployment = lab(NX_FILE_QUIET=1800)
    put(folder / "a.txt", 2 * HOUR)
    put(folder / "b.txt", timedelta(minutes=10))
    add(deployment, "s", ended=timedelta(minutes=5))

    outcome = build(deployment)

    assert (outcome.status, outcome.waits) == (SessionStatus.TO_BE_BUILT, True)
    assert "s ago and its files may still be growing" in str(outcome.problem)
    assert "a build after 20" in str(outcome.problem)
    with transaction(deployment.engine) as connection:
        known = builds.of_sessions(connection, ["s"])["s"]
    assert known == builds.Build(under_way=False, asked=False, not_before=None, problem=outcome.problem)
    put(folder / "b.txt", 0.75 * HOUR)
    end(deployment, timedelta(minutes=31))
    assert build(deployment).status is SessionStatus.BUILT_NOT_EXPORTED
    assert files_of(deployment) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("quiet", [0, 60])
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_session_that_has_not_ended_is_left_for_a_later_build(
    lab: Lab, folder: Path, quiet: int, *, rebuild: bool
) -> None:
    deployment = lab(NX_FILE_QUIET=quiet)
    put(folder / "a.txt", 0.5 * HOUR)
    add(deployment, "s", ended=-HOUR)

    outcome = build(deployment, "s", rebuild=rebuild)

    assert (outcome.status, outcome.waits) == (SessionStatus.TO_BE_BUILT, True)
    assert "the session has not ended yet; a build after 20" in str(outcome.problem)
    put(folder / "b.txt", timedelta(minutes=10))
    end(deployment, timedelta(minutes=5))
    assert build(deployment).status is SessionStatus.BUILT_NOT_EXPORTED
    assert files_of(deployment) == ["a.txt", "b.txt"]


def test_a_file_that_reaches_the_share_after_the_end_of_its_session_is_in_its_record(lab: Lab, folder: Path) -> None:
    deployment = lab(NX_FILE_QUIET=1800)
    put(folder / "a.txt", 2 * HOUR)
    add(deployment, "s", ended=timedelta(minutes=5))
    assert build(deployment).waits

    put(folder / "late.txt", HOUR)
    end(deployment, timedelta(minutes=31))
    build(deployment)

    assert files_of(deployment) == ["a.txt", "late.txt"]


def test_the_clock_of_the_instrument_does_not_say_when_a_session_has_ended(lab: Lab, folder: Path) -> None:
    deployment = lab()
    put(folder / "a.txt", -0.5 * HOUR)  # by a clock that is two hours ahead
    add(deployment, "s", ended=timedelta(minutes=30), clock_offset=7200)

    assert build(deployment).status is SessionStatus.BUILT_NOT_EXPORTED
    assert files_of(deployment) == ["a.txt"]


@pytest.mark.parametrize(
    ("since", "reason"),
    [
        (-1, "the session has not ended yet"),
        (0, "the session ended 0 s ago and its files may still be growing"),
        (59.9, "the session ended 60 s ago and its files may still be growing"),
        (60, None),
    ],
)
def test_a_session_is_left_alone_for_the_quiet_time_after_its_end(since: float, reason: str | None) -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert too_early(noon, noon + timedelta(seconds=since), timedelta(minutes=1)) == reason


@pytest.mark.parametrize("rebuild", [False, True])
def test_an_old_session_is_left_for_a_later_build_while_the_share_is_not_mounted_as_the_guide_says(
    lab: Lab, folder: Path, *, rebuild: bool
) -> None:
    deployment = lab(NX_FILE_DELAY_DAYS=2)
    add(deployment, "s", ended=timedelta(days=30))

    outcome = build(deployment, "s", rebuild=rebuild)

    assert str(outcome.problem).startswith(f"The folder {folder} is empty: check that the share is mounted")
    (seen,) = view(deployment.engine, deployment.settings)
    assert seen.build is not None
    assert (seen.build.moving, seen.build.problem) == (False, outcome.problem)
    row = f"| The folder … is empty | `{status_of(deployment)}` |"
    assert row in GUIDE.read_text(encoding="utf-8")
    put(folder / "a.txt", timedelta(days=30) + HOUR)
    assert build(deployment).status is SessionStatus.BUILT_NOT_EXPORTED


def test_a_session_whose_instrument_has_no_folder_is_left_for_a_later_build_as_the_guide_says(
    lab: Lab, folder: Path
) -> None:
    deployment = lab()
    put(folder / "a.txt", 2 * HOUR)
    with transaction(deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow("SEM-1", None, None, None, "Europe/Berlin", 0))
        end = datetime.now(UTC) - HOUR
        row = SessionRow("s", "SEM-1", end - 2 * HOUR, end, "ann", SessionStatus.TO_BE_BUILT)
        sessions.add_session(connection, row)

    outcome = build(deployment)

    assert str(outcome.problem).startswith("Instrument SEM-1 has no data folder")
    assert f"| Instrument … has no data folder | `{status_of(deployment)}` |" in GUIDE.read_text(encoding="utf-8")
    with transaction(deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow("SEM-1", None, None, "SEM", "Europe/Berlin", 0))
    assert build(deployment).status is SessionStatus.BUILT_NOT_EXPORTED


def test_a_record_that_exists_is_not_rebuilt_without_a_file_that_may_still_grow(lab: Lab, folder: Path) -> None:
    deployment = lab(NX_FILE_QUIET=0)
    put(folder / "a.txt", timedelta(seconds=5))
    add(deployment, "s", ended=timedelta(seconds=1))
    build(deployment)

    outcome = build(lab(NX_FILE_QUIET=3600), "s", rebuild=True)

    assert outcome.waits
    assert status_of(deployment) is SessionStatus.BUILT_NOT_EXPORTED


def test_a_session_without_files_waits_until_the_delay_is_over(lab: Lab, folder: Path) -> None:
    deployment = lab()
    put(folder / "another.txt", timedelta(days=9))
    add(deployment, "s")

    outcome = build(deployment)

    assert (outcome.status, outcome.waits) == (SessionStatus.TO_BE_BUILT, True)
    assert "no files yet" in str(outcome.problem)
    assert "NO_FILES_FOUND" in str(outcome.problem)
    put(folder / "a.txt", 2 * HOUR)  # copied late
    assert build(deployment).status is SessionStatus.BUILT_NOT_EXPORTED


def test_after_the_delay_it_is_final_that_there_are_no_files(lab: Lab, folder: Path) -> None:
    deployment = lab(NX_FILE_DELAY_DAYS=1)
    put(folder / "another.txt", timedelta(days=9))
    add(deployment, "s", ended=timedelta(days=1, seconds=5))

    assert build(deployment) == SessionOutcome("s", SessionStatus.NO_FILES_FOUND)
    assert status_of(deployment) is SessionStatus.NO_FILES_FOUND


def test_a_rebuild_that_finds_no_files_keeps_the_record_that_there_is(lab: Lab, folder: Path) -> None:
    deployment = lab()
    put(folder / "another.txt", timedelta(days=9))
    put(folder / "a.txt", 2 * HOUR)
    add(deployment, "s")
    build(deployment)
    (folder / "a.txt").unlink()

    outcome = build(deployment, "s", rebuild=True)

    assert outcome.status is status_of(deployment) is SessionStatus.BUILT_NOT_EXPORTED
    assert outcome.problem == "no files were found, the record stays as it is"


def test_a_rebuild_that_finds_no_files_speaks_of_no_record_where_there_is_none(lab: Lab, folder: Path) -> None:
    deployment = lab(NX_FILE_DELAY_DAYS=0)
    put(folder / "another.txt", timedelta(days=9))
    add(deployment, "s")
    build(deployment)

    outcome = build(deployment, "s", rebuild=True)

    assert outcome == SessionOutcome("s", SessionStatus.NO_FILES_FOUND, "no files were found")
    assert status_of(deployment) is SessionStatus.NO_FILES_FOUND


def test_a_session_that_is_to_be_built_becomes_an_error_under_rebuild_as_well(lab: Lab, folder: Path) -> None:
    deployment = lab()
    put(folder / "a.txt", 2 * HOUR)
    add(deployment, "s")
    with transaction(deployment.engine) as connection:
        sessions.set_details(connection, "s", {"title": ["no", "text"]})

    outcome = build(deployment, "s", rebuild=True)

    assert outcome.status is status_of(deployment) is SessionStatus.ERROR


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["a.txt", "b.MIB"]),
        ({"NX_FILE_STRATEGY": "inclusive"}, ["a.txt", "b.MIB", "c.exe", "noise"]),
        ({"NX_IGNORE_PATTERNS": "*.mib, */noise"}, ["a.txt"]),
    ],
)
def test_the_settings_say_which_files_are_data(
    lab: Lab, folder: Path, settings: dict[str, str], names: list[str]
) -> None:
    deployment = lab(**settings)
    for name in ("a.txt", "b.MIB", "c.exe", "noise"):
        put(folder / name, 2 * HOUR)
    add(deployment, "s")

    build(deployment)

    assert sorted(files_of(deployment)) == names


def test_the_clock_of_the_instrument_decides_what_belongs_to_a_session(lab: Lab, folder: Path) -> None:
    deployment = lab()
    put(folder / "ours.txt", timedelta(minutes=30))  # by a clock that is an hour ahead
    put(folder / "theirs.txt", 2.5 * HOUR)
    add(deployment, "s", clock_offset=3600)

    build(deployment)

    assert files_of(deployment) == ["ours.txt"]
    started = datetime.fromisoformat(str(record_of(deployment).findtext(".//n:startTime", namespaces=NAMES)))
    assert abs(datetime.now(UTC) - started - 1.5 * HOUR) < timedelta(minutes=1)
    assert started.utcoffset() in {HOUR, 2 * HOUR}  # Berlin


def test_many_sessions_take_one_listing(lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = lab()
    listed = []

    def counted(root: Path, **rest: Any) -> Listing:
        listed.append(root)
        return list_folder(root, **rest)

    monkeypatch.setattr("nexus_tasks.builder.finder.list_folder", counted)
    identifiers = [f"s{number}" for number in range(5)]
    add(deployment, *identifiers)
    for day in range(5):
        put(folder / f"{day}.txt", 2 * HOUR + timedelta(days=day))

    outcomes = process_new_records(deployment)

    assert {outcome.status for outcome in outcomes} == {SessionStatus.BUILT_NOT_EXPORTED}
    assert len(outcomes) == 5
    assert listed == [Path("SEM")]


def test_what_is_said_later_stands_in_the_record_that_is_built_again(lab: Lab, folder: Path) -> None:
    deployment = lab()
    put(folder / "a.txt", 2 * HOUR)
    add(deployment, "s")
    build(deployment)
    assert str(record_of(deployment).findtext("n:title", namespaces=NAMES)).startswith("Experiment on the SEM-1")

    with transaction(deployment.engine) as connection:
        sessions.set_details(connection, "s", {"title": "Rust", "samples": [{"name": "Nail", "id": "1"}]})
    build(deployment, "s", rebuild=True)

    assert record_of(deployment).findtext("n:title", namespaces=NAMES) == "Rust"
    assert record_of(deployment).findtext("n:sample/n:name", namespaces=NAMES) == "Nail"


def test_details_that_nobody_can_use_are_an_error_that_says_what_to_do(lab: Lab, folder: Path) -> None:
    deployment = lab()
    put(folder / "a.txt", 2 * HOUR)
    add(deployment, "s")
    with transaction(deployment.engine) as connection:
        sessions.set_details(connection, "s", {"title": ["no", "text"]})

    outcome = build(deployment)

    assert outcome.status is SessionStatus.ERROR
    assert "title must be a text" in str(outcome.problem)
    assert "sessions describe" in str(outcome.problem)
