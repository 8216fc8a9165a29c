"""What goes wrong before or beside the services: one clear line, an exit status, and nothing lost."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.sandbox.ports import free_port
from nexus_tasks.sandbox.services.client import objects
from nexus_tasks.sandbox.waiting import wait_until
from nexus_tasks.states import SessionStatus
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import (
    END,
    INSTRUMENT,
    START,
    Installation,
    begin,
    finish,
    new_session,
    record_xml,
    the_only_line,
)

PATIENCE = 45.0  # seconds after which commands that cannot reach something must have said so, on a busy machine too


@pytest.fixture(scope="module")
def whole_lab(make_installation: InstallationMaker) -> Installation:
    """Unlike the shared one it gives nothing up."""
    installation = make_installation({})
    installation.start_worker(concurrency=2)
    installation.start_beat()
    return installation


@pytest.fixture
def lab(whole_lab: Installation) -> Iterator[Installation]:
    whole_lab.stand_ins.reset()
    with whole_lab.entered():
        yield whole_lab


@pytest.fixture
def to_build(lab: Installation) -> str:
    """A session that is to be built, with an instrument of the same name and one file."""
    session = new_session()
    folder = lab.instruments / session
    folder.mkdir()
    (folder / "notes.txt").write_text("seen today", encoding="utf-8")
    moment = time.time() - 7200  # long enough ago: what was written just now is left for the next build
    os.utime(folder / "notes.txt", (moment, moment))
    add_session(lab, session, moment)
    return session


def add_session(lab: Installation, session: str, moment: float) -> None:
    start = datetime.fromtimestamp(moment, UTC) - timedelta(hours=1)
    row = SessionRow(session, session, start, start + timedelta(hours=2), "ann", SessionStatus.TO_BE_BUILT)
    with transaction(lab.deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow(session, None, None, session, "UTC"))
        sessions.add_session(connection, row)


def enqueue_arguments(record: Path, session: str) -> tuple[str | Path, ...]:
    times = ("--start", START.isoformat(), "--end", END.isoformat())
    return ("enqueue", record, "--session", session, "--instrument", INSTRUMENT, *times)


def nowhere(scheme: str, path: str) -> str:
    """An address where nothing listens."""
    return f"{scheme}://nexus:hidden-password@127.0.0.1:{free_port()}/{path}"


# --- data folders


def test_a_missing_data_folder_leaves_the_session_to_be_built(lab: Installation, to_build: str, tmp_path: Path) -> None:
    missing = tmp_path / "not-mounted"

    line = the_only_line(lab.command("build", to_build, NX_INSTRUMENT_DATA_PATH=str(missing)))

    assert str(missing) in line
    assert lab.status(to_build) == "TO_BE_BUILT"
    assert lab.command("build", to_build, "--wait").status == 0
    assert lab.status(to_build) == "COMPLETED"


def test_a_data_folder_that_cannot_be_read_leaves_the_session_to_be_built(
    lab: Installation, to_build: str, tmp_path: Path
) -> None:
    """Nobody can make a folder unreadable for root; a file in its place cannot be listed either."""
    not_a_folder = tmp_path / "a-file"
    not_a_folder.write_text("no folder", encoding="utf-8")

    line = the_only_line(lab.command("build", to_build, NX_INSTRUMENT_DATA_PATH=str(not_a_folder)))

    assert str(not_a_folder) in line
    assert lab.status(to_build) == "TO_BE_BUILT"


def test_an_instrument_whose_folder_is_missing_leaves_its_session_to_be_built(lab: Installation, to_build: str) -> None:
    folder, elsewhere = lab.instruments / to_build, lab.instruments / f"{to_build}-elsewhere"
    folder.rename(elsewhere)

    line = the_only_line(lab.command("build", to_build))

    assert str(folder) in line
    assert lab.status(to_build) == "TO_BE_BUILT"
    elsewhere.rename(folder)
    assert lab.command("build", to_build, "--wait").status == 0
    assert lab.status(to_build) == "COMPLETED"


# --- record files


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_record_file_that_is_gone_or_changed_is_not_sent_until_it_is_back(lab: Installation, harm: str) -> None:
    session = new_session()
    with lab.frozen_worker():
        lab.hand_over(session)
        [(name,)] = lab.rows("SELECT document FROM record WHERE session_identifier = :s", s=session)
        document = lab.records / str(name)
        original = document.read_bytes()
        if harm == "gone":
            document.unlink()
        else:
            document.write_bytes(original.replace(b"Test SEM", b"Best SEM"))

    wait_until(lambda: lab.why_not_done(session, "cdcs") is not None, 20, "the delivery to wait")
    message = lab.why_not_done(session, "cdcs") or ""
    assert document.name in message
    assert ("restore it" if harm == "gone" else "put the original back") in message
    assert len(message.splitlines()) == 1
    assert objects(lab.stand_ins.cdcs.url) == []
    status = lab.command("status", session, "--json")
    assert document.name in str(status.document["sessions"][0]["deliveries"][0]["error_message"])
    assert status.document["sessions"][0]["record_status"] == "BUILT_NOT_EXPORTED"

    document.write_bytes(original)
    lab.wait_until_settled(session)
    assert lab.status(session) == "COMPLETED"
    [held] = objects(lab.stand_ins.cdcs.url, content=True)
    assert held["xml_content"].encode() == original
    logged = lab.rows(
        "SELECT error_message FROM upload_log WHERE session_identifier = :s AND success = 0 "
        "AND destination_name = 'cdcs'",
        s=session,
    )
    assert {reason for (reason,) in logged} == {message}


def test_xml_that_is_not_valid_is_not_taken_over(lab: Installation, tmp_path: Path) -> None:
    wrong = {
        "cut off": (b"<Experiment><title>no end", "not well-formed"),
        "of another schema": (b"<Experiment>of somebody else's</Experiment>", "does not match the NexusLIMS schema"),
        "empty": (b"", "not well-formed"),
    }
    for name, (xml, _) in wrong.items():
        (tmp_path / name).write_bytes(xml)
    tried = lab.commands(*(enqueue_arguments(tmp_path / name, f"{name}-{tmp_path.name}") for name in wrong))

    for told, (name, (xml, says)) in zip(tried, wrong.items(), strict=True):
        assert says in the_only_line(told), name
        assert (tmp_path / name).read_bytes() == xml
        assert lab.rows("SELECT 1 FROM session_log WHERE session_identifier LIKE :s", s=f"{name}%") == []


def test_a_record_file_that_is_not_there_cannot_be_enqueued(lab: Installation, tmp_path: Path) -> None:
    line = the_only_line(lab.command(*enqueue_arguments(tmp_path / "nowhere.xml", new_session())))

    assert "nowhere.xml" in line


# --- names that nobody knows


def test_an_unknown_session_is_named(lab: Installation) -> None:
    commands = [["build"], ["status"], ["log"], ["sessions", "show"]]

    for told in lab.commands(*([*command, "no-such-session"] for command in commands)):
        assert "no-such-session" in the_only_line(told)


def test_an_unknown_destination_is_named_with_those_there_are(lab: Installation, tmp_path: Path) -> None:
    addresses = {name: lab.environment[name] for name in ("NX_CDCS_URL", "NX_ELABFTW_URL", "NX_LABARCHIVES_URL")}
    (tmp_path / "env").write_text("".join(f"{name}={url}\n" for name, url in addresses.items()), encoding="utf-8")

    line = the_only_line(lab.command("sandbox", "fault", "nope", "--dir", tmp_path, "--kind", "reset"))

    assert "nope" in line
    assert all(name in line for name in ("cdcs", "elabftw", "labarchives"))


def test_a_plugin_that_does_not_import_is_named(lab: Installation, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text("raise RuntimeError('two\\nlines')\n", encoding="utf-8")

    line = the_only_line(lab.command("destinations", NX_PLUGINS_PATH=str(tmp_path)))

    assert str(plugin) in line
    assert "RuntimeError" in line


def test_a_plugin_folder_that_is_missing_is_named(lab: Installation, tmp_path: Path) -> None:
    line = the_only_line(lab.command("destinations", NX_PLUGINS_PATH=str(tmp_path / "no-plugins")))

    assert "no-plugins" in line
    assert "NX_PLUGINS_PATH" in line


# --- servers that are away


def test_without_a_broker_a_record_waits_in_the_database(lab: Installation, to_build: str, tmp_path: Path) -> None:
    enqueued, record = new_session(), tmp_path / "record.xml"
    record.write_bytes(record_xml(enqueued))
    since = time.monotonic()

    with lab.frozen_worker():  # it has its broker, and would be faster
        without = nowhere("redis", "0")
        tried = [
            lab.command("build", to_build, NX_BROKER_URL=without),
            lab.command(*enqueue_arguments(record, enqueued), NX_BROKER_URL=without),
        ]
        assert time.monotonic() - since < PATIENCE
        for told in tried:
            line = the_only_line(told)
            assert "NX_BROKER_URL" in line
            assert "hidden-password" not in line
        for session in (to_build, enqueued):
            assert lab.delivered(session).deliveries == dict.fromkeys(("cdcs", "elabftw", "labarchives"), "pending")

    lab.wait_until_settled(to_build, enqueued)
    assert (lab.status(to_build), lab.status(enqueued)) == ("COMPLETED", "COMPLETED")
    assert len(objects(lab.stand_ins.cdcs.url)) == 2


def test_a_database_that_is_not_there_is_told_in_one_line(lab: Installation, tmp_path: Path) -> None:
    record = tmp_path / "record.xml"
    record.write_bytes(record_xml("any"))
    commands = [["build"], ["status"], enqueue_arguments(record, "any"), ["sessions", "list"], ["db", "check"]]
    since = time.monotonic()

    tried = lab.commands(*commands, NX_DATABASE_URL=nowhere("postgresql", "nexus"))

    assert time.monotonic() - since < PATIENCE
    for told in tried:
        line = the_only_line(told)
        assert "NX_DATABASE_URL" in line
        assert "127.0.0.1" in line
        assert "hidden-password" not in line


def test_a_database_without_tables_is_told_in_one_line(lab: Installation) -> None:
    without_tables = lab.environment["NX_DATABASE_URL"].rpartition("/")[0] + "/nexus"

    line = the_only_line(lab.command("status", NX_DATABASE_URL=without_tables))

    assert "nexus-tasks db upgrade" in line


# --- settings


def test_a_wrong_token_is_named_and_the_deliveries_arrive_when_it_is_mended(
    make_installation: InstallationMaker,
) -> None:
    lab, session = make_installation({"NX_MAX_FAILURES": "1"}), new_session()
    wrong = {
        "NX_CDCS_TOKEN": "an-old-cdcs-token",
        "NX_ELABFTW_API_KEY": "7-an-old-elabftw-key",
        "NX_LABARCHIVES_ACCESS_PASSWORD": "an-old-labarchives-password",
    }
    setting = {
        "cdcs": "NX_CDCS_TOKEN",
        "elabftw": "NX_ELABFTW_API_KEY",
        "labarchives": "NX_LABARCHIVES_ACCESS_PASSWORD",
    }
    lab.start_beat()
    with_old_tokens = lab.start_worker("old", concurrency=2, **wrong)
    with lab.entered():
        lab.hand_over(session)
    refusals = (
        "SELECT destination_name FROM upload_log WHERE session_identifier = :s AND success = 0 "
        "GROUP BY 1 HAVING count(*) > 1 ORDER BY 1"
    )
    wait_until(lambda: len(lab.rows(refusals, s=session)) == 3, 20, "each to be refused twice")
    wait_until(
        lambda: all(lab.why_not_done(session, name) for name in setting),
        20,
        "all three to be still to do",
    )
    after = lab.delivered(session)

    assert set(after.deliveries.values()) <= {"pending", "retrying"}  # it is not the record's fault: none is given up
    assert after.status == "BUILT_NOT_EXPORTED"
    messages = lab.rows(
        "SELECT DISTINCT destination_name, error_message FROM upload_log WHERE session_identifier = :s", s=session
    )
    assert {name for name, _ in messages} == set(setting)
    for name, message in messages:
        assert setting[name] in message
        assert len(message.splitlines()) == 1
        assert not any(secret in message for secret in wrong.values())
    assert objects(lab.stand_ins.cdcs.url) == []

    with_old_tokens.teardown()  # in an orderly way: what it is doing is done
    lab.start_worker("mended", concurrency=2)
    lab.wait_until_settled(session)
    assert lab.delivered(session).deliveries == dict.fromkeys(setting, "succeeded")
    assert lab.status(session) == "COMPLETED"
    assert len(objects(lab.stand_ins.cdcs.url)) == 1


def test_a_wrong_or_missing_setting_is_named(lab: Installation) -> None:
    wrong = {
        "NX_INSTRUMENT_DATA_PATH": ("", "build"),
        "NX_CDCS_URL": ("cdcs.example.org", "status"),
        "NX_DATABASE_URL": ("mysql://nexus:hidden-password@127.0.0.1/nexus", "status"),
        "NX_RETRY_DELAYS": ("soon", "destinations"),
        "NX_EXPORT_STRATEGY": ("whatever", "config"),
    }
    started = {name: lab.begin(command, **{name: value}) for name, (value, command) in wrong.items()}

    for name, process in started.items():
        line = the_only_line(finish(process))
        assert name in line
        assert "hidden-password" not in line


def test_a_destination_that_is_half_configured_is_told_by_destinations(lab: Installation) -> None:
    told = lab.command("destinations", NX_CDCS_TOKEN="")

    assert "NX_CDCS_TOKEN is missing" in " ".join(told.output.split())


def test_a_record_that_went_nowhere_goes_out_when_the_destinations_are_configured(
    lab: Installation, tmp_path: Path
) -> None:
    session, record = new_session(), tmp_path / "record.xml"
    record.write_bytes(record_xml(session))
    nothing = dict.fromkeys(("NX_CDCS_URL", "NX_ELABFTW_URL", "NX_LABARCHIVES_URL"), "")

    line = the_only_line(lab.command(*enqueue_arguments(record, session), **nothing))
    assert "nexus-tasks destinations" in line

    assert lab.command("destinations", "backfill", "cdcs").status == 0
    lab.wait_until_settled(session)
    assert lab.delivered(session).deliveries == {"cdcs": "succeeded"}
    assert lab.status(session) == "COMPLETED"


def test_two_wrong_settings_are_a_line_each(lab: Installation) -> None:
    told = finish(
        begin(["status"], {**lab.environment, "NX_CDCS_URL": "nowhere", "NX_TRIES": "none"}, lab.folder), PATIENCE
    )

    assert told.status == 1
    assert [
        next(name for name in ("NX_CDCS_URL", "NX_TRIES") if name in line) for line in sorted(told.error_lines)
    ] == [
        "NX_CDCS_URL",
        "NX_TRIES",
    ]
