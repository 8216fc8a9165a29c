from dataclasses import replace
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


def add(cdcs: Destination, web: requests.Session, title: str, xml: bytes) -> int:
    """A record that another program makes."""
    record = {"template": 41, "workspace": 8, "title": title, "xml_content": xml.decode()}
    headers = {"Authorization": f"Token {CDCS_TOKEN}"}
    answer = web.post(f"{cdcs.server.url}/rest/data/", json=record, headers=headers)
    assert answer.status_code == 201
    return int(answer.json()["id"])


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
    assert cdcs.calls == [CHANGE]
    the_record(cdcs, context)


@pytest.mark.parametrize("name", ["504 after saving", "503 before saving", "a cut-off answer"])
def test_a_change_whose_answer_was_lost_is_made_again(cdcs: Destination, context: ExportContext, name: str) -> None:
    first = context.xml_file_path.read_bytes()
    cdcs.export(context)
    rebuild(context)
    cdcs.fail(context, fault(name, "PATCH", "/rest/data/"))
    context.xml_file_path.write_bytes(first)  # back to what was there before
    cdcs.export(context)
    the_record(cdcs, context)


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


def test_each_writing_call_is_checked_directly_before_it(cdcs: Destination, context: ExportContext) -> None:
    checks: list[int] = []
    with before_each_call(lambda writes: checks.append(len(cdcs.writing_calls)) if writes else None):
        cdcs.export(context)
        rebuild(context)
        cdcs.export(context)
    assert cdcs.writing_calls == [CREATE, CHANGE]
    assert checks == [0, 1]


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
