import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import requests

from nexus_tasks.exporters.base import ExportContext, MemoryCheckpoint, PermanentError, TransientError
from nexus_tasks.exporters.http import before_each_call
from nexus_tasks.exporters.title import record_title
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.services.standins import CDCS_TOKEN
from tests.integration.exporters.conftest import (
    FAULTS,
    INSTRUMENT,
    SESSION,
    UNSAVED,
    Destination,
    again,
    fault,
    of_session,
    rebuild,
    record_xml,
    sha256,
    wait_until,
)

CREATE = "POST /rest/data/"
CHANGE = "PATCH /rest/data/{id}/"
READ = "GET /rest/data/{id}/"
USAGE_EVENT = "https://nemo.example.org/api/usage_events/?id=303"
UUID = "6c7d3f14-8b0a-4f3a-9e7c-1f2f6a2f0c11"
LOST = "504 after saving"


def add(cdcs: Destination, web: requests.Session, title: str, xml: bytes) -> int:
    """A record that another program makes."""
    record = {"template": 41, "workspace": 8, "title": title, "xml_content": xml.decode()}
    headers = {"Authorization": f"Token {CDCS_TOKEN}"}
    answer = web.post(f"{cdcs.server.url}/rest/data/", json=record, headers=headers)
    assert answer.status_code == 201
    return int(answer.json()["id"])


def edit(cdcs: Destination, web: requests.Session, number: object, **changes: str) -> None:
    """What people do to a record in CDCS."""
    headers = {"Authorization": f"Token {CDCS_TOKEN}"}
    answer = web.patch(f"{cdcs.server.url}/rest/data/{number}/", json=changes, headers=headers)
    assert answer.status_code == 200


def of_nexuslims(
    number: str = "303", start: str = "2026-03-02T09:00:00Z", pid: str = INSTRUMENT, text: str = ""
) -> str:
    """A record as NexusLIMS builds it."""
    return (
        f'<Experiment><id>{number}</id><summary><instrument pid="{pid}">Titan</instrument>'
        f"<reservationStart>{start}</reservationStart><motivation>{text}</motivation></summary></Experiment>"
    )


def handed_over(context: ExportContext) -> ExportContext:
    """A session of NEMO whose record NexusLIMS has built: it does not hold the session's whole identifier."""
    other = of_session(context, USAGE_EVENT)
    other.xml_file_path.write_text(of_nexuslims())
    return other


def the_record(cdcs: Destination, context: ExportContext) -> dict[str, Any]:
    """The only one there is, which holds what it shall."""
    (record,) = cdcs.objects
    assert record["title"] == record_title(context)
    assert record["sha256"] == sha256(context)
    assert record["workspace"] == 8
    return record


@pytest.mark.parametrize("name", FAULTS)
def test_after_any_fault_there_is_one_record(cdcs: Destination, context: ExportContext, name: str) -> None:
    cdcs.fail(context, fault(name, "POST", "^/rest/data/$"))
    if name not in UNSAVED:
        wait_until(lambda: cdcs.objects)
    result = cdcs.export(context)
    assert result.record_id == str(the_record(cdcs, context)["id"])


def test_after_an_outage_there_is_one_record(cdcs: Destination, context: ExportContext) -> None:
    cdcs.export(of_session(context, "before"))
    cdcs.server.stop()
    try:
        with pytest.raises(TransientError, match="refused the connection"):
            cdcs.export(context)
    finally:
        cdcs.server.start()
    cdcs.export(context)
    assert len(cdcs.objects) == 2
    assert "POST /rest/data/query/" not in cdcs.calls  # nothing had reached it


def test_a_second_export_makes_no_call(cdcs: Destination, context: ExportContext) -> None:
    assert cdcs.export(context).metadata["done"] == "created"
    cdcs.server.calls.reset()
    assert cdcs.export(context).metadata["done"] == "unchanged"
    assert cdcs.calls == []


def test_a_further_record_takes_one_call(cdcs: Destination, context: ExportContext) -> None:
    cdcs.export(context)
    cdcs.server.calls.reset()
    cdcs.export(of_session(context, "another"))
    assert cdcs.calls == [CREATE]


def test_a_rebuilt_record_is_changed_in_place(cdcs: Destination, context: ExportContext) -> None:
    first = cdcs.export(context)
    rebuild(context)
    cdcs.server.calls.reset()
    second = cdcs.export(context)
    assert (second.record_id, second.metadata["done"]) == (first.record_id, "updated")
    assert cdcs.calls == [READ, CHANGE]
    the_record(cdcs, context)


def test_a_record_that_is_another_sessions_by_now_is_left_alone(
    cdcs: Destination, context: ExportContext, web: requests.Session
) -> None:
    number = cdcs.export(context).record_id
    other = of_session(context, "another")  # which was given the number after a backup was restored
    edit(cdcs, web, number, title=record_title(other), xml_content=other.xml_file_path.read_text())
    rebuild(context)
    cdcs.server.calls.reset()
    command = f"nexus-tasks retry {SESSION} --destination cdcs --recreate"
    with pytest.raises(PermanentError, match=f"Record {number} in CDCS is another session's.*{command}"):
        cdcs.export(context)
    assert cdcs.writing_calls == []
    the_record(cdcs, other)
    assert cdcs.export(again(context)).metadata["done"] == "created"  # as --recreate does


@pytest.mark.parametrize("content", ["by a curator", None])
def test_a_curators_change_is_replaced_by_a_rebuilt_record_and_this_is_said(
    cdcs: Destination,
    context: ExportContext,
    web: requests.Session,
    caplog: pytest.LogCaptureFixture,
    content: str | None,
) -> None:
    number = cdcs.export(context).record_id
    if content is not None:
        edit(cdcs, web, number, xml_content=record_xml(SESSION, content).decode())
    rebuild(context)
    with caplog.at_level(logging.WARNING):
        cdcs.export(context)
    said = f"Record {number} was changed in CDCS by somebody else: the record of session {SESSION}"
    assert (said in caplog.text) == (content is not None)
    the_record(cdcs, context)


NOTHING: dict[str, str] = {}
OF_PEOPLE = {"another title": {"title": "A better name"}, "another text": {"xml_content": of_nexuslims(text="edited")}}


@pytest.mark.parametrize("changes", [NOTHING, *OF_PEOPLE.values()], ids=["as it was", *OF_PEOPLE])
def test_a_record_that_nexuslims_built_is_changed_in_place_whatever_people_did_to_it(
    cdcs: Destination, context: ExportContext, web: requests.Session, changes: dict[str, str]
) -> None:
    nexuslims = handed_over(context)
    number = cdcs.export(nexuslims).record_id
    if changes:
        edit(cdcs, web, number, **changes)
    nexuslims.xml_file_path.write_text(of_nexuslims(text="rebuilt"))
    assert cdcs.export(nexuslims).record_id == number
    the_record(cdcs, nexuslims)


@pytest.mark.parametrize(
    ("title", "ours"), [(f"2026-03-03_{INSTRUMENT}_303", True), (f"2026-03-02_{INSTRUMENT}_304", False)]
)
def test_what_nexuslims_is_known_to_have_made_is_known_by_its_name(
    cdcs: Destination, context: ExportContext, web: requests.Session, title: str, ours: bool
) -> None:
    number = add(cdcs, web, title, of_nexuslims("17").encode())  # the number of the reservation
    taken_over = of_session(context, USAGE_EVENT)
    taken_over.checkpoint.create("record", lambda: str(number))  # what it holds is not known
    if ours:
        assert cdcs.export(taken_over).record_id == str(number)
        the_record(cdcs, taken_over)
    else:
        with pytest.raises(PermanentError, match="another session's"):
            cdcs.export(taken_over)


@pytest.mark.parametrize("name", ["504 after saving", "503 before saving", "a cut-off answer"])
def test_a_change_whose_answer_was_lost_is_made_again(cdcs: Destination, context: ExportContext, name: str) -> None:
    first = context.xml_file_path.read_bytes()
    cdcs.export(context)
    rebuild(context)
    cdcs.fail(context, fault(name, "PATCH", "/rest/data/"))
    context.xml_file_path.write_bytes(first)  # back to what was there before
    cdcs.export(context)
    the_record(cdcs, context)


@pytest.mark.parametrize("name", [LOST, "503 before saving"])
def test_after_a_change_without_an_answer_a_record_without_identifier_is_still_known(
    cdcs: Destination, context: ExportContext, name: str
) -> None:
    for number, text in enumerate("abc"):
        context.xml_file_path.write_text(f'<a b="{text}"/>')
        if number == 1:
            cdcs.fail(context, fault(name, "PATCH", "/rest/data/"))
        else:
            cdcs.export(context)
    the_record(cdcs, context)


def test_a_change_that_came_through_is_not_made_again(cdcs: Destination, context: ExportContext) -> None:
    cdcs.export(context)
    rebuild(context)
    cdcs.fail(context, fault(LOST, "PATCH", "/rest/data/"))
    cdcs.server.calls.reset()
    assert cdcs.export(context).metadata["done"] == "unchanged"
    assert cdcs.calls == [READ]
    cdcs.export(context)
    assert cdcs.calls == [READ]


def test_a_record_that_is_found_with_an_older_content_is_changed(cdcs: Destination, context: ExportContext) -> None:
    cdcs.fail(context, fault("504 after saving", "POST", "^/rest/data/$"))
    rebuild(context)
    assert cdcs.export(context).metadata["done"] == "updated"
    the_record(cdcs, context)


def test_a_record_found_with_an_older_content_is_changed_even_if_that_fails_at_first(
    cdcs: Destination, context: ExportContext
) -> None:
    cdcs.fail(context, fault("504 after saving", "POST", "^/rest/data/$"))
    rebuild(context)
    cdcs.fail(context, fault("503 before saving", "PATCH", "/rest/data/"))
    cdcs.export(context)
    the_record(cdcs, context)


def test_a_record_that_is_found_as_it_shall_be_is_not_changed(cdcs: Destination, context: ExportContext) -> None:
    cdcs.fail(context, fault("504 after saving", "POST", "^/rest/data/$"))
    cdcs.server.calls.reset()
    assert cdcs.export(context).metadata["done"] == "unchanged"
    assert cdcs.writing_calls == []


@pytest.mark.parametrize(
    ("title", "identifier"),
    [
        ("{title}", "https://elsewhere/2026-03-02_09_abc"),
        ("{title}", SESSION.upper()),
        ("{title}", SESSION + "1"),
        ("{title}1", SESSION),
        ("{lower}", SESSION),
    ],
)
def test_a_record_of_another_session_is_not_adopted(
    cdcs: Destination, context: ExportContext, web: requests.Session, title: str, identifier: str
) -> None:
    name = record_title(context)
    other = add(cdcs, web, title.format(title=name, lower=name.lower()), record_xml(identifier))
    cdcs.fail(context, fault("503 before saving", "POST", "^/rest/data/$"))
    result = cdcs.export(context)
    assert result.metadata["done"] == "created"
    assert result.record_id != str(other)
    assert len(cdcs.objects) == 2


def test_of_several_records_of_the_session_the_oldest_is_adopted(
    cdcs: Destination, context: ExportContext, web: requests.Session
) -> None:
    add(cdcs, web, record_title(context), record_xml("another"))
    oldest, _ = (add(cdcs, web, record_title(context), record_xml(SESSION, text)) for text in "ab")
    cdcs.fail(context, fault("503 before saving", "POST", "^/rest/data/$"))
    assert cdcs.export(context).record_id == str(oldest)


def test_a_record_whose_answer_was_lost_is_found_although_its_date_was_corrected(
    cdcs: Destination, context: ExportContext
) -> None:
    cdcs.fail(context, fault(LOST, "POST", "^/rest/data/$"))
    earlier = record_title(context)
    corrected = replace(context, dt_from=context.dt_from - timedelta(days=40))
    assert record_title(corrected) != earlier
    assert cdcs.export(corrected).metadata["done"] == "updated"
    the_record(cdcs, corrected)


def test_a_handed_over_record_whose_answer_was_lost_is_found_although_it_was_handed_over_anew(
    cdcs: Destination, context: ExportContext
) -> None:
    nexuslims = handed_over(context)
    cdcs.fail(nexuslims, fault(LOST, "POST", "^/rest/data/$"))
    nexuslims.xml_file_path.write_text(of_nexuslims(text="built once more"))
    assert cdcs.export(nexuslims).metadata["done"] == "updated"
    the_record(cdcs, nexuslims)


def test_what_was_sent_is_known_by_its_bytes_although_it_was_built_anew(
    cdcs: Destination, context: ExportContext
) -> None:
    context.xml_file_path.write_text("<Experiment>no id</Experiment>")
    cdcs.fail(context, fault(LOST, "POST", "^/rest/data/$"))
    context.xml_file_path.write_text("<Experiment>still none</Experiment>")
    assert cdcs.export(context).metadata["done"] == "updated"
    the_record(cdcs, context)


@pytest.mark.parametrize(("session", "short"), [(USAGE_EVENT, "303"), (UUID, "6c7d3f14")])
def test_what_nexuslims_has_sent_is_found_under_its_name_there(
    cdcs: Destination, context: ExportContext, web: requests.Session, session: str, short: str
) -> None:
    taken_over = of_session(context, session)
    taken_over.xml_file_path.write_text(of_nexuslims("17"))  # its own document, as `db import-nexuslims` copies it
    there = add(cdcs, web, f"2026-03-02_{INSTRUMENT}_{short}", taken_over.xml_file_path.read_bytes())
    cdcs.fail(taken_over, fault("503 before saving", "POST", "^/rest/data/$"))
    assert cdcs.export(taken_over).record_id == str(there)
    the_record(cdcs, taken_over)


@pytest.mark.parametrize(
    ("xml", "ours"),
    [
        (of_nexuslims(), True),
        (of_nexuslims(start="2026-03-02T04:00:00-05:00"), True),
        (of_nexuslims(start="2026-03-02T09:00:01Z"), False),
        (of_nexuslims(start="2026-03-02"), False),
        (of_nexuslims(pid="Other"), False),
        (of_nexuslims("304"), False),
        ("<Experiment><id>303</id></Experiment>", False),
    ],
)
def test_a_record_of_the_sessions_usage_event_is_known_by_its_number_instrument_and_start(
    cdcs: Destination, context: ExportContext, web: requests.Session, xml: str, ours: bool
) -> None:
    built_here = of_session(context, USAGE_EVENT)
    there = add(cdcs, web, f"2026-03-02_{INSTRUMENT}_303", xml.encode())
    cdcs.fail(built_here, fault("503 before saving", "POST", "^/rest/data/$"))
    assert (cdcs.export(built_here).record_id == str(there)) == ours


@pytest.mark.parametrize("xml", [b"<Experiment>no id</Experiment>", b'<a b="c"/>'])
def test_a_record_that_names_no_session_is_known_by_its_bytes(
    cdcs: Destination, context: ExportContext, xml: bytes
) -> None:
    context.xml_file_path.write_bytes(xml)
    cdcs.fail(context, fault("504 after saving", "POST", "^/rest/data/$"))
    cdcs.export(context)
    the_record(cdcs, context)


def test_a_deleted_record_is_made_again_only_when_asked(
    cdcs: Destination, context: ExportContext, web: requests.Session
) -> None:
    number = cdcs.export(context).record_id
    headers = {"Authorization": f"Token {CDCS_TOKEN}"}
    assert web.delete(f"{cdcs.server.url}/rest/data/{number}/", headers=headers).status_code == 204
    rebuild(context)
    command = f"nexus-tasks retry {SESSION} --destination cdcs --recreate"
    with pytest.raises(PermanentError, match=f"deleted there.*{command}"):
        cdcs.export(context)
    assert cdcs.objects == []
    assert cdcs.export(again(context)).metadata["done"] == "created"  # as --recreate does
    the_record(cdcs, context)


def test_a_template_that_is_refused_is_asked_for_again(cdcs: Destination, context: ExportContext) -> None:
    body = '{"message": {"template": ["Invalid pk \\"41\\" - object does not exist."]}}'
    cdcs.server.faults.replace([Fault(FaultKind.STATUS, status=400, body=body, path="^/rest/data/$", times=1)])
    cdcs.export(context)
    the_record(cdcs, context)
    assert cdcs.calls.count(CREATE) == 2


def test_each_call_is_checked_directly_before_it(cdcs: Destination, context: ExportContext) -> None:
    checks: list[int] = []
    with before_each_call(lambda: checks.append(len(cdcs.calls))):
        cdcs.export(context)
        rebuild(context)
        cdcs.export(context)
    assert cdcs.writing_calls == [CREATE, CHANGE]
    assert checks == list(range(len(cdcs.calls)))


def test_it_says_how_long_a_call_may_take(cdcs: Destination, context: ExportContext) -> None:
    asked: dict[str, float | None] = {}

    class Recording(MemoryCheckpoint):
        def create(self, step: str, *args: Any, seconds: float | None = None, **kwargs: Any) -> str:
            asked[step] = seconds
            return super().create(step, *args, seconds=seconds, **kwargs)

    large = f"<Experiment>{'x' * 1_000_000}</Experiment>"
    context.xml_file_path.write_text(large)
    cdcs.export(replace(context, checkpoint=Recording()))
    assert asked["record"] is not None
    assert asked["record"] > 61
