"""What is there already is left alone, and what was built again is brought up to date in place.

Whether a call writes is counted by the stand-ins; `Copies` says what the three hold of one session.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nexus_tasks.builder.record_xml import RecordContent, write_record
from nexus_tasks.delivery.export_records import HandedOver, RecordToExport, export_records
from nexus_tasks.sandbox.services.elabftw.objects import NORMAL
from nexus_tasks.sandbox.services.standins import StandIns
from tests.acceptance.installation import END, INSTRUMENT, START, Installation, new_session, record_xml

LOOKS_ONLY = {"POST /rest/data/query/"}
WRITES_BY_GET = {"GET /api/tree_tools/insert_node"}


@dataclass(frozen=True)
class Copies:
    """What the stand-ins hold of one session; of files the SHA-256, attachments that were superseded are left out."""

    records: tuple[str, ...]
    experiments: int
    uploads: tuple[str, ...]
    pages: int
    summaries: int
    attachments: tuple[str, ...]


def once(xml: bytes) -> Copies:
    """One of each, and each file whole."""
    sha256 = hashlib.sha256(xml).hexdigest()
    return Copies((sha256,), 1, (sha256,), 1, 1, (sha256,))


def copies(stand_ins: StandIns, session: str) -> Copies:
    experiments = [found for found in stand_ins.elabftw.objects() if found["title"].endswith(session)]
    notebook = [found for found in stand_ins.labarchives.objects() if found["path"].endswith(f" — {session}")]
    entries = [found for found in notebook if found["kind"] == "entry"]
    return Copies(
        tuple(found["sha256"] for found in stand_ins.cdcs.objects() if found["title"].endswith(f"_{session}")),
        len(experiments),
        tuple(file["sha256"] for found in experiments for file in found["uploads"] if file["state"] == NORMAL),
        sum(found["kind"] == "page" for found in notebook),
        sum(found["filename"] is None for found in entries),
        tuple(found["sha256"] for found in entries if found["filename"] is not None),
    )


def calls(stand_ins: StandIns) -> Counter[str]:
    """Every call since the last reset, by method and path."""
    return Counter(
        {path: count for each in stand_ins.servers for path, count in each.calls.as_json()["by_path"].items()}
    )


def writing_calls(stand_ins: StandIns) -> Counter[str]:
    """Those of them that create or change something."""
    return Counter(
        {
            path: count
            for path, count in calls(stand_ins).items()
            if path in WRITES_BY_GET or not (path.startswith("GET ") or path in LOOKS_ONLY)
        }
    )


def test_the_same_enqueue_command_twice_causes_no_call_that_writes(installation: Installation, tmp_path: Path) -> None:
    session, record = new_session(), tmp_path / "record.xml"
    record.write_bytes(record_xml(session))
    times = ("--start", START.isoformat(), "--end", END.isoformat())
    command = ("enqueue", record, "--session", session, "--instrument", INSTRUMENT, *times, "--wait", "--json")
    first = installation.command(*command)
    assert first.status == 0, (first.errors, installation.history(session))
    before, written = installation.delivered(session), writing_calls(installation.stand_ins)

    second = installation.command(*command)
    installation.wait_until_settled(session)

    assert second.status == 0, second.errors
    assert {**second.document, "record": None} == {**first.document, "record": None}
    assert written, "the first export wrote nothing"
    assert writing_calls(installation.stand_ins) == written
    assert installation.delivered(session) == before
    assert copies(installation.stand_ins, session) == once(record.read_bytes())


def test_handing_a_record_over_twice_causes_no_call_that_writes(installation: Installation) -> None:
    session = new_session()
    installation.hand_over(session)
    installation.wait_until_settled(session)
    before, written = installation.delivered(session), writing_calls(installation.stand_ins)

    installation.hand_over(session)
    installation.wait_until_settled(session)

    assert written, "the first export wrote nothing"
    assert writing_calls(installation.stand_ins) == written
    assert installation.delivered(session) == before
    assert before.status == "COMPLETED"
    assert copies(installation.stand_ins, session) == once(record_xml(session))


def test_handing_a_record_over_again_while_it_is_exported_makes_one_of_each(installation: Installation) -> None:
    session = new_session()
    for _ in range(5):
        installation.hand_over(session)
    installation.wait_until_settled(session)

    assert installation.status(session) == "COMPLETED"
    assert copies(installation.stand_ins, session) == once(record_xml(session))
    assert writing_calls(installation.stand_ins)["POST /rest/data/"] == 1
    assert writing_calls(installation.stand_ins)["POST /api/v2/experiments"] == 1


def test_retry_of_a_completed_session_causes_no_call_at_all(installation: Installation) -> None:
    session = new_session()
    installation.hand_over(session)
    installation.wait_until_settled(session)
    before, made = installation.delivered(session), calls(installation.stand_ins)

    retried = installation.command("retry", session)
    installation.wait_until_settled(session)

    assert retried.status == 0, retried.errors
    assert "nothing to retry" in retried.output
    assert before.status == "COMPLETED"
    assert calls(installation.stand_ins) == made
    assert installation.delivered(session) == before


# --- a record that was built again


def content_of(session: str, version: str) -> bytes:
    """Another document for the same session."""
    return write_record(
        RecordContent(session, INSTRUMENT, "Test SEM", f"{version} of {session}", "ann", START, END, ())
    )


def hand_over(installation: Installation, session: str, version: str) -> HandedOver:
    """A record whose document and list of files name the version."""
    record = RecordToExport(
        session_identifier=session,
        instrument_pid=INSTRUMENT,
        dt_from=START,
        dt_to=END,
        timezone="UTC",
        user="ann",
        xml=content_of(session, version),
        activities=[{"files": [f"{INSTRUMENT}/{version}.dm4"], "previews": [None]}],
    )
    return export_records([record], installation.deployment)


def identifiers(stand_ins: StandIns) -> dict[str, list[str]]:
    """Of every object, but of an experiment's files only how the experiment is called."""
    return {each.url: [str(found["id"]) for found in each.objects()] for each in stand_ins.servers}


def test_a_rebuilt_record_is_updated_in_place_in_all_three(installation: Installation) -> None:
    session, stand_ins = new_session(), installation.stand_ins
    hand_over(installation, session, "first-version")
    installation.wait_until_settled(session)
    assert copies(stand_ins, session) == once(content_of(session, "first-version"))
    before = identifiers(stand_ins)

    hand_over(installation, session, "second-version")
    installation.wait_until_settled(session)

    assert installation.status(session) == "COMPLETED"
    assert copies(stand_ins, session) == once(content_of(session, "second-version"))
    assert identifiers(stand_ins) == before
    [record] = stand_ins.cdcs.objects(content=True)
    [experiment] = stand_ins.elabftw.objects(content=True)
    [summary] = [found for found in stand_ins.labarchives.objects(content=True) if found.get("filename", "") is None]
    assert record["xml_content"].encode() == content_of(session, "second-version")
    for shown in (experiment["body"], summary["entry_data"]):
        assert "second-version.dm4" in shown
        assert "first-version.dm4" not in shown


def test_a_rebuilt_record_is_written_once_and_then_left_alone(installation: Installation) -> None:
    session, stand_ins = new_session(), installation.stand_ins
    for version in ("first-version", "second-version"):
        hand_over(installation, session, version)
        installation.wait_until_settled(session)
    before, written = installation.delivered(session), writing_calls(stand_ins)

    hand_over(installation, session, "second-version")
    installation.wait_until_settled(session)

    assert written["PATCH /rest/data/{id}/"] == 1
    assert writing_calls(stand_ins) == written
    assert installation.delivered(session) == before
