import base64
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_plus, urlencode

import pytest

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import (
    Activity,
    ConfigurationError,
    ExportContext,
    ExportError,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.destinations.labarchives import LabArchivesDestination, page_title
from nexus_tasks.exporters.http import before_each_call
from nexus_tasks.exporters.labarchives.api import ROOT, Account, EntryText, LabArchivesApi
from nexus_tasks.exporters.labarchives.page import LONGEST_SUMMARY, XML_CAPTION
from nexus_tasks.exporters.title import attachment_name
from nexus_tasks.sandbox.services.faults import Fault
from nexus_tasks.sandbox.services.labarchives.objects import Node
from nexus_tasks.sandbox.services.labarchives.service import Labarchives
from nexus_tasks.sandbox.services.labarchives.xml import error_response
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.server import StandInServer
from nexus_tasks.sandbox.services.standins import LABARCHIVES_ACCOUNT, StandIns
from tests.integration.exporters.conftest import (
    FAULTS,
    INSTRUMENT,
    LINK,
    SESSION,
    UNSAVED,
    Destination,
    again,
    fault,
    linked,
    of_session,
    rebuild,
    record_xml,
    sha256,
    wait_until,
)
from tests.proxies import running_proxy

INSERT = "GET /api/tree_tools/insert_node"
ADD = "POST /api/entries/add_entry"
ATTACH = "POST /api/entries/add_attachment"
UPDATE = "POST /api/entries/update_entry"
UPDATE_FILE = "POST /api/entries/update_attachment"
NOTEBOOK = LABARCHIVES_ACCOUNT.nbid
TINY_PICTURE = base64.b64decode("R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs=")


@pytest.fixture
def people(labarchives: Destination) -> LabArchivesApi:
    """What people do in the notebook."""
    account = Account(LABARCHIVES_ACCOUNT.akid, LABARCHIVES_ACCOUNT.password, LABARCHIVES_ACCOUNT.uid)
    return LabArchivesApi(labarchives.server.url, account)


def service(labarchives: Destination) -> Labarchives:
    assert isinstance(labarchives.server.service, Labarchives)
    return labarchives.server.service


def named(labarchives: Destination, kind: str, name: str) -> list[dict[str, Any]]:
    return [each for each in labarchives.objects if each["kind"] == kind and each["name"] == name]


def page_path(context: ExportContext) -> str:
    return f"NexusLIMS Records/{context.instrument_pid}/{page_title(context)}"


def on_page(labarchives: Destination, context: ExportContext) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The texts and the files on the page of the record."""
    entries = [each for each in labarchives.objects if each["kind"] == "entry" and each["path"] == page_path(context)]
    return [each for each in entries if not each["filename"]], [each for each in entries if each["filename"]]


def check(labarchives: Destination, context: ExportContext) -> str:
    """There is one page with one summary and one file, as they shall be; the summary's text."""
    assert len(named(labarchives, "folder", "NexusLIMS Records")) == 1
    assert len(named(labarchives, "folder", context.instrument_pid)) == 1
    assert len(named(labarchives, "page", page_title(context))) == 1
    (summary,), (file,) = on_page(labarchives, context)
    assert (file["filename"], file["sha256"]) == (attachment_name(context), sha256(context))
    text = str(summary["entry_data"])
    assert all(each.name in text for activity in context.activities for each in activity.files)
    return text


def before_nothing(labarchives: Destination, context: ExportContext) -> None:
    """The notebook is empty: the first call makes the top folder."""


def before_another_instrument(labarchives: Destination, context: ExportContext) -> None:
    labarchives.export(of_session(context, "before", instrument_pid="Another"))


def before_another_session(labarchives: Destination, context: ExportContext) -> None:
    labarchives.export(of_session(context, "before"))


CREATING: dict[str, tuple[Callable[[Destination, ExportContext], None], str, str, str]] = {
    "top folder": (before_nothing, "folder", "NexusLIMS Records", "insert_node"),
    "instrument folder": (before_another_instrument, "folder", INSTRUMENT, "insert_node"),
    "page": (before_another_session, "page", SESSION, "insert_node"),
    "summary": (before_another_session, "text", "", "add_entry"),
    "attachment": (before_another_session, "file", "", "add_attachment"),
}


@pytest.mark.parametrize("what", CREATING)
@pytest.mark.parametrize("name", FAULTS)
def test_after_any_fault_there_is_one_page_with_one_summary_and_one_file(
    labarchives: Destination, context: ExportContext, name: str, what: str
) -> None:
    prepare, kind, text, method = CREATING[what]
    prepare(labarchives, context)

    def there() -> bool:
        texts, files = on_page(labarchives, context)
        nodes = [each for each in labarchives.objects if each["kind"] == kind and text in each["name"]]
        return bool({"text": texts, "file": files}.get(kind, nodes))

    labarchives.fail(context, fault(name, "GET" if method == "insert_node" else "POST", method))
    if name not in UNSAVED:
        wait_until(there)
    labarchives.export(context)
    check(labarchives, context)


@pytest.mark.parametrize("name", FAULTS)
def test_a_page_whose_answer_was_lost_is_found_after_its_date_was_corrected(
    labarchives: Destination, context: ExportContext, name: str
) -> None:
    before_another_session(labarchives, context)
    labarchives.fail(context, fault(name, "GET", "insert_node"))
    if name not in UNSAVED:
        wait_until(lambda: named(labarchives, "page", page_title(context)))
    corrected = replace(context, dt_from=context.dt_from - timedelta(days=1))
    assert page_title(corrected) != page_title(context)
    there = corrected if name in UNSAVED else context
    assert labarchives.export(corrected).record_id == named(labarchives, "page", page_title(there))[0]["id"]
    pages = [each for each in labarchives.objects if each["kind"] == "page" and SESSION in each["name"]]
    assert len(pages) == 1


def test_after_an_outage_there_is_one_page(labarchives: Destination, context: ExportContext) -> None:
    labarchives.export(of_session(context, "before"))
    labarchives.server.stop()
    try:
        with pytest.raises(TransientError, match="refused the connection"):
            labarchives.export(context)
    finally:
        labarchives.server.start()
    labarchives.export(context)
    check(labarchives, context)


def test_a_second_export_makes_no_call(labarchives: Destination, context: ExportContext) -> None:
    assert labarchives.export(context).metadata["done"] == "created"
    labarchives.server.calls.reset()
    assert labarchives.export(context).metadata["done"] == "unchanged"
    assert labarchives.calls == []


def test_a_further_record_takes_three_calls(labarchives: Destination, context: ExportContext) -> None:
    labarchives.export(context)
    labarchives.server.calls.reset()
    labarchives.export(of_session(context, "another"))
    assert labarchives.calls == [INSERT, ADD, ATTACH]


@pytest.mark.parametrize("path", ["add_entry", "add_attachment"])
def test_what_is_found_as_it_shall_be_is_not_changed(
    labarchives: Destination, context: ExportContext, path: str
) -> None:
    labarchives.fail(context, fault("504 after saving", "POST", path))
    labarchives.server.calls.reset()
    labarchives.export(context)
    assert labarchives.writing_calls == ([ATTACH] if path == "add_entry" else [])


@pytest.mark.parametrize("path", ["add_entry", "add_attachment"])
def test_what_is_found_with_an_older_content_is_changed(
    labarchives: Destination, context: ExportContext, path: str
) -> None:
    labarchives.fail(context, fault("504 after saving", "POST", path))
    context.xml_file_path.write_bytes(record_xml(SESSION, "second"))
    assert LINK in linked_export(labarchives, context)


def linked_export(labarchives: Destination, context: ExportContext) -> str:
    labarchives.export(linked(context))
    return check(labarchives, context)


def test_a_rebuilt_record_updates_the_same_page(
    labarchives: Destination, context: ExportContext, tmp_path: Path
) -> None:
    picture = tmp_path / "a.gif"
    picture.write_bytes(TINY_PICTURE)
    context.activities[:] = [Activity((Path("/data/a.dm3"),), (picture,))]
    first = labarchives.export(context)
    for text in ("second", "third", "first"):
        rebuild(context, text)
        labarchives.server.calls.reset()
        result = labarchives.export(context)
        assert (result.record_id, result.metadata["done"]) == (first.record_id, "updated")
        assert labarchives.writing_calls == [UPDATE, UPDATE_FILE]
        assert "data:image/gif;base64," in check(labarchives, context)


@pytest.mark.parametrize("path", ["update_entry", "update_attachment"])
@pytest.mark.parametrize("name", ["504 after saving", "503 before saving", "a cut-off answer"])
@pytest.mark.parametrize("then", ["same", "newer", "first"])
def test_a_change_whose_answer_was_lost_is_made_again(
    labarchives: Destination, context: ExportContext, name: str, path: str, then: str
) -> None:
    first = context.xml_file_path.read_bytes(), list(context.activities)
    labarchives.export(context)
    rebuild(context)
    labarchives.fail(context, fault(name, "POST", path))
    if then == "newer":
        rebuild(context, "third")
    elif then == "first":
        context.xml_file_path.write_bytes(first[0])
        context.activities[:] = first[1]
    labarchives.export(context)
    assert ("second.dm3" in check(labarchives, context)) == (then != "first")


def test_the_link_to_cdcs_arrives_late_at_the_same_page(labarchives: Destination, context: ExportContext) -> None:
    first = labarchives.export(context)
    labarchives.server.calls.reset()
    result = labarchives.export(linked(context))
    assert (result.record_id, result.metadata["done"]) == (first.record_id, "updated")
    assert labarchives.writing_calls == [UPDATE]
    assert LINK in check(labarchives, context)


def test_what_people_wrote_is_kept_and_noted_once_for_each_content(
    labarchives: Destination, context: ExportContext, people: LabArchivesApi
) -> None:
    eid = labarchives.export(context).metadata["summary_entry_id"]
    people.update_entry(eid, EntryText("<p>grain boundary at 5 µm</p>"))
    rebuild(context)
    for _ in range(2):
        labarchives.export(linked(context))
    (text, note), (file,) = on_page(labarchives, context)
    assert text["entry_data"] == "<p>grain boundary at 5 µm</p>"
    assert "by hand" in note["entry_data"]
    assert LINK in note["entry_data"]
    assert file["sha256"] == sha256(context)
    rebuild(context, "third")
    labarchives.export(linked(context))
    (text, *notes), (file,) = on_page(labarchives, context)
    assert text["entry_data"] == "<p>grain boundary at 5 µm</p>"
    assert len({each["entry_data"] for each in notes}) == len(notes) == 2
    assert file["sha256"] == sha256(context)


@pytest.mark.parametrize("name", FAULTS)
def test_a_note_whose_answer_was_lost_stands_there_once(
    labarchives: Destination, context: ExportContext, people: LabArchivesApi, name: str
) -> None:
    eid = labarchives.export(context).metadata["summary_entry_id"]
    people.update_entry(eid, EntryText("people's"))
    rebuild(context)
    labarchives.fail(context, fault(name, "POST", "add_entry"))
    if name not in UNSAVED:
        wait_until(lambda: len(on_page(labarchives, context)[0]) == 2)
    labarchives.export(context)
    texts, _ = on_page(labarchives, context)
    assert len(texts) == 2


def test_a_picture_that_people_have_added_is_kept(
    labarchives: Destination, context: ExportContext, people: LabArchivesApi
) -> None:
    eid = labarchives.export(context).metadata["summary_entry_id"]
    (summary,), _ = on_page(labarchives, context)
    people.update_entry(eid, EntryText(summary["entry_data"] + '<img src="https://lab.example.org/p.png">'))
    labarchives.export(linked(context))
    assert "p.png" in on_page(labarchives, context)[0][0]["entry_data"]


def test_a_preview_that_people_have_annotated_is_kept(
    labarchives: Destination, context: ExportContext, people: LabArchivesApi, tmp_path: Path
) -> None:
    context = with_previews(context, tmp_path, count=2, size=100)
    eid = labarchives.export(context).metadata["summary_entry_id"]
    (summary,), _ = on_page(labarchives, context)
    ours = base64.b64encode(bytes(100)).decode()
    annotated = summary["entry_data"].replace(ours, base64.b64encode(b"grain boundary").decode(), 1)
    people.update_entry(eid, EntryText(annotated))
    labarchives.export(linked(context))
    (text, note), _ = on_page(labarchives, context)
    assert text["entry_data"] == annotated
    assert "by hand" in note["entry_data"]


@pytest.mark.parametrize("what", ["page", "summary", "attachment"])
def test_what_people_have_deleted_is_made_again_only_when_asked(
    labarchives: Destination, context: ExportContext, what: str
) -> None:
    result = labarchives.export(context)
    state = service(labarchives)  # its interface has no call that deletes
    if what == "page":
        del state.notebook.nodes[result.record_id or ""]
    else:
        del state.notebook.entries[result.metadata[f"{what}_entry_id"]]
    rebuild(context)
    count = len(labarchives.objects)
    command = f"nexus-tasks retry {SESSION} --destination labarchives --recreate"
    with pytest.raises(PermanentError, match=command) as caught:
        labarchives.export(context)
    assert ("What is left would stay beside a new one" in str(caught.value)) == (what != "page")
    assert len(labarchives.objects) == count
    assert labarchives.export(again(context)).metadata["done"] == "created"  # as --recreate does


def test_a_folder_that_people_have_deleted_is_made_again_for_the_next_record(
    labarchives: Destination, context: ExportContext
) -> None:
    labarchives.export(of_session(context, "before"))
    service(labarchives).reset()
    labarchives.export(context)
    check(labarchives, context)


@pytest.mark.parametrize("lookalike", [f"2026-03-02 — {SESSION.upper()}", f"2026-03-02 — {SESSION}1", SESSION])
def test_a_page_of_another_session_is_not_adopted(
    labarchives: Destination, context: ExportContext, people: LabArchivesApi, lookalike: str
) -> None:
    before_another_session(labarchives, context)
    (folder,) = named(labarchives, "folder", INSTRUMENT)
    people.insert_node(NOTEBOOK, folder["id"], lookalike, is_folder=False)
    people.insert_node(NOTEBOOK, folder["id"], page_title(context), is_folder=True)
    people.insert_node(NOTEBOOK, ROOT, page_title(context), is_folder=False)
    known = {each["id"] for each in labarchives.objects}
    labarchives.fail(context, fault("503 before saving", "GET", "insert_node"))
    assert labarchives.export(context).record_id not in known


def test_entries_of_other_sessions_on_the_page_are_not_adopted(
    labarchives: Destination, context: ExportContext, people: LabArchivesApi
) -> None:
    before_another_session(labarchives, context)
    labarchives.fail(context, fault("503 before saving", "POST", "add_entry"))
    (page,) = named(labarchives, "page", page_title(context))
    lookalike = f"<li><strong>Session ID</strong>: {SESSION}1</li><li><strong>Instrument</strong>: x</li>"
    foreign = [
        lookalike,
        f"compare {SESSION} with the last one",
        lookalike.replace(f"{SESSION}1", SESSION.upper()),
    ]
    for text in foreign:
        people.add_text_entry(NOTEBOOK, page["id"], EntryText(text))
    labarchives.fail(context, fault("503 before saving", "POST", "add_attachment"))
    own = context.xml_file_path.read_bytes()
    people.add_attachment(attachment_name(context), own.swapcase(), "mine", NOTEBOOK, page["id"])
    people.add_attachment("another.xml", own, XML_CAPTION, NOTEBOOK, page["id"])
    labarchives.export(context)
    texts, files = on_page(labarchives, context)
    assert [each["entry_data"] for each in texts[:3]] == foreign
    (summary,) = texts[3:]
    assert "a.dm3" in summary["entry_data"]
    assert len(files) == 3


def test_of_several_pages_of_the_session_the_first_is_adopted(
    labarchives: Destination, context: ExportContext, people: LabArchivesApi
) -> None:
    before_another_session(labarchives, context)
    (folder,) = named(labarchives, "folder", INSTRUMENT)
    first, _ = (people.insert_node(NOTEBOOK, folder["id"], page_title(context), is_folder=False) for _ in range(2))
    labarchives.fail(context, fault("503 before saving", "GET", "insert_node"))
    assert labarchives.export(context).record_id == first


def test_odd_identifiers_are_found_again(labarchives: Destination, context: ExportContext) -> None:
    odd = of_session(context, "https://x/?id=3&y='\"<b>%_\x01")
    for method, path in (("GET", "insert_node"), ("POST", "add_entry"), ("POST", "add_attachment")):
        labarchives.fail(odd, fault("504 after saving", method, path))
    labarchives.export(odd)
    check(labarchives, odd)


def test_each_call_is_checked_directly_before_it(labarchives: Destination, context: ExportContext) -> None:
    checks: list[int] = []
    with before_each_call(lambda: checks.append(len(labarchives.calls))):
        labarchives.export(context)
        rebuild(context)
        labarchives.export(context)
    assert labarchives.writing_calls == [INSERT, INSERT, INSERT, ADD, ATTACH, UPDATE, UPDATE_FILE]
    assert checks == list(range(len(labarchives.calls)))


def test_the_inbox_holds_both_files_once_and_up_to_date(
    labarchives: Destination, context: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NX_LABARCHIVES_NOTEBOOK_ID", "")
    get_settings.cache_clear()
    labarchives.export(context)
    labarchives.server.calls.reset()
    assert labarchives.export(context).metadata["done"] == "unchanged"
    assert labarchives.calls == []
    rebuild(context)
    assert labarchives.export(context).metadata["done"] == "updated"
    assert labarchives.calls == [UPDATE_FILE, UPDATE_FILE]
    document, record = labarchives.objects
    assert (document["path"], document["filename"]) == ("Inbox", attachment_name(context, ".html"))
    assert (record["path"], record["sha256"]) == ("Inbox", sha256(context))


@pytest.mark.parametrize("name", ["cdcs", "elabftw", "labarchives"])
def test_a_destination_is_called_through_its_proxy_alone(
    request: pytest.FixtureRequest, context: ExportContext, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    destination: Destination = request.getfixturevalue(name)
    for proxied in (name, "another"):
        with running_proxy() as proxy:
            monkeypatch.setenv("NX_PROXIES", f"{proxied}=http://{proxy.address}")
            get_settings.cache_clear()
            destination.server.calls.reset()
            assert destination.export(of_session(context, f"through {proxied}")).success
            assert len(proxy.asked) == (len(destination.calls) if proxied == name else 0)


# --- a signed address is a credential


class Telltale(Labarchives):
    """Answers one call with what `tell` makes of the address that was called: as careless services do."""

    def __init__(self, at: str, tell: Callable[[str], Response]) -> None:
        super().__init__(LABARCHIVES_ACCOUNT)
        self._at = at
        self._tell = tell
        self.signed_by: set[str] = set()

    def answer(self, request: Request) -> Response:
        query = {name: values[0] for name, values in request.query.items()}
        self.signed_by |= {query[name] for name in ("sig", "expires") if name in query}
        if not request.path.endswith(self._at):
            return super().answer(request)
        return self._tell(f"https://api.example.org{request.path}?{urlencode(query)}")


def parameters(address: str) -> dict[str, str]:
    return dict(parse_qsl(address.partition("?")[2]))


def page(status: int, make: Callable[[str], str]) -> Callable[[str], Response]:
    return lambda address: Response(status, make(address).encode(), "text/html")


def error(status: int, root: str, make: Callable[[str], str], code: int = 4999) -> Callable[[str], Response]:
    return lambda address: error_response(root, status, code, make(address))


def redirect(status: int, make: Callable[[str], str]) -> Callable[[str], Response]:
    return lambda address: Response(status, b"", None, (("Location", make(address)),))


def cdata(address: str) -> Response:
    text = f"<error><error-code>1</error-code><error-description><![CDATA[{address}]]></error-description></error>"
    return Response.xml(500, text.encode())


def with_request(address: str) -> Response:
    given = "".join(f"<{name}>{value}</{name}>" for name, value in parameters(address).items())
    return Response.xml(500, f"<entries><request>{given}</request></entries>".encode())


def javascript(address: str) -> str:
    escaped = json.dumps({"message": f"cannot serve {address}"}).replace("/", "\\/")
    return escaped.replace("&", "\\u0026").replace("=", "\\u003d").replace("+", "\\u002b")


TELLING: dict[str, Callable[[str], Response]] = {
    "the address": page(500, lambda address: f"<p>Error at {address}</p>"),
    "the address, escaped": page(500, lambda address: f"<p>Error at {escape(escape(address))}</p>"),
    "the address in JSON": page(503, lambda address: json.dumps({"message": f"no answer from {address}"})),
    "the address in JSON for scripts": page(500, javascript),
    "the address, quoted": page(502, lambda address: f"Bad gateway {quote(address, safe='')}"),
    "the address, quoted twice": page(502, lambda address: quote(quote(address, safe=""), safe="")),
    "the address, unquoted": page(500, unquote_plus),
    "the address, cut off": page(500, lambda address: address[: address.index("sig=") + 30]),
    "the query alone": page(400, lambda address: "& " + address.partition("?")[2]),
    "the parameters as Ruby shows them": page(
        500, lambda address: str(parameters(address)).replace("': '", '"=>"').replace("'", '"')
    ),
    "the parameters as Python shows them": page(404, lambda address: str(parameters(address))),
    "the parameters in lines": page(
        500, lambda address: "\n".join(f"{name}: {value}" for name, value in parameters(address).items())
    ),
    "the values alone": page(403, lambda address: " ".join(parameters(address).values())),
    "the values alone, padded no more": page(
        403, lambda address: " ".join(value.rstrip("=") for value in parameters(address).values())
    ),
    "the address in the middle of a page": page(500, lambda address: "word " * 40 + address),
    "an error that quotes it": error(500, "error", lambda address: f"cannot serve {address}"),
    "a nested error that quotes it": error(400, "entries", lambda address: f"cannot serve {address}"),
    "an error that is said to be a success": error(200, "tree-tools", lambda address: f"cannot serve {address}"),
    "a wrong signature": error(401, "error", lambda address: f"expected another than {address}", 4520),
    "a page that is gone": error(404, "tree-tools", lambda address: f"nothing at {address}"),
    "too many calls": error(429, "error", lambda address: f"slower, please: {address}"),
    "a file that is too big": error(413, "entries", lambda address: f"too big: {address}", 4521),
    "an error in CDATA": cdata,
    "the request in an answer that is no error": with_request,
    "a code that is none": lambda address: Response.xml(500, f"<error><code>{escape(address)}</code></error>".encode()),
    "a redirect to another host": redirect(302, lambda address: address),
    "a redirect to itself": redirect(307, lambda address: f"?{address.partition('?')[2]}"),
    "a redirect to no address": redirect(301, lambda address: f"http://[{address}"),
    "a page instead of an answer": page(200, lambda address: f"<p>log in at {address}"),
    "XML of somebody else": page(200, lambda address: f"<html><body>{escape(address)}</body></html>"),
    "an answer without an id": lambda address: Response.xml(
        200, f"<entries><a>{escape(address)}</a></entries>".encode()
    ),
}
CALLS = ("get_tree_level", "insert_node", "add_entry", "add_attachment")


@pytest.fixture
def own_server(
    monkeypatch: pytest.MonkeyPatch, stand_ins: StandIns
) -> Iterator[Callable[[Labarchives], StandInServer]]:
    """Starts a stand-in that the settings name."""
    servers: list[StandInServer] = []

    def start(service: Labarchives) -> StandInServer:
        servers.append(StandInServer(service))
        servers[-1].start()
        monkeypatch.setenv("NX_LABARCHIVES_URL", servers[-1].url)
        get_settings.cache_clear()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def everything_told(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """All that could be stored, logged or shown of a failure."""
    told = [*traceback.format_exception(error)]
    told += traceback.TracebackException.from_exception(error, capture_locals=False).format()
    cause: BaseException | None = error
    while cause is not None:
        told += [str(cause), repr(cause), str(cause.args), str(vars(cause))]
        cause = cause.__cause__ or cause.__context__
    told += [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    return "\n".join(told)


def assert_no_credential(told: str, signed_by: Iterable[str] = ()) -> None:
    account = LABARCHIVES_ACCOUNT
    for secret in (account.akid, account.password, account.uid, *signed_by):
        for spelling in (secret, quote(secret, safe=""), secret.replace("+", " "), secret.rstrip("=")):
            assert spelling not in told
    assert not re.search(r"\b(sig|expires)(=|%3D)", told, re.IGNORECASE)
    assert not re.search(r"[A-Za-z0-9+/%]{80,}", told)  # as long as a signature


@pytest.mark.parametrize(
    ("what", "at"),
    [
        (what, at)
        for what in TELLING
        for at in CALLS
        if (what, at) != ("an answer without an id", "get_tree_level")  # that is an empty list
    ],
)
def test_no_credential_is_told_when_an_answer_holds_it(
    own_server: Callable[[Labarchives], StandInServer],
    context: ExportContext,
    caplog: pytest.LogCaptureFixture,
    what: str,
    at: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    service = Telltale(at, TELLING[what])
    own_server(service)
    with pytest.raises(ExportError) as caught:
        LabArchivesDestination().export(context)
    assert service.signed_by
    assert_no_credential(everything_told(caught.value, caplog), service.signed_by)


BREAKING: dict[str, dict[str, Any]] = FAULTS | {
    "silence before saving": {"kind": "hang"},
    "silence after saving": {"kind": "hang_after"},
    "silence that is saved later": {"kind": "late", "seconds": 0.1},
    "a page of a proxy": {"kind": "status", "status": 502},
}


@pytest.mark.parametrize("at", CALLS)
@pytest.mark.parametrize("name", BREAKING)
def test_no_credential_is_told_when_a_call_breaks(
    labarchives: Destination,
    context: ExportContext,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    at: str,
) -> None:
    monkeypatch.setenv("NX_CALL_DEADLINE", "0.2")
    get_settings.cache_clear()
    caplog.set_level(logging.DEBUG)
    labarchives.server.faults.replace([Fault.from_json(BREAKING[name] | {"path": at})])
    with pytest.raises(TransientError) as caught:
        labarchives.export(context)
    assert_no_credential(everything_told(caught.value, caplog))


@pytest.mark.parametrize("url", ["https://127.0.0.1:{port}", "http://127.0.0.1:1", "http://127.0.0.1:x"])
def test_no_credential_is_told_when_the_address_is_wrong(
    labarchives: Destination, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    caplog.set_level(logging.DEBUG)
    port = labarchives.server.url.rpartition(":")[2]
    account = Account(LABARCHIVES_ACCOUNT.akid, LABARCHIVES_ACCOUNT.password, LABARCHIVES_ACCOUNT.uid)
    with pytest.raises(ExportError) as caught:
        LabArchivesApi(url.format(port=port), account).get_tree_level(NOTEBOOK, ROOT)
    assert_no_credential(everything_told(caught.value, caplog))


def test_no_credential_is_in_a_result_or_in_the_log_of_a_success(
    labarchives: Destination, context: ExportContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = [repr(labarchives.export(context))]
    told += [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    assert_no_credential("\n".join(told))


def test_an_account_does_not_show_its_secrets() -> None:
    account = Account(LABARCHIVES_ACCOUNT.akid, LABARCHIVES_ACCOUNT.password, LABARCHIVES_ACCOUNT.uid)
    assert account.password not in repr(account)
    assert account.user_id not in repr(account)


# --- contents of every kind


ODD = {
    "control characters": "tab\tbell\x07 escape\x1b line\nend",
    "emoji": "🔬 grain 👩‍🔬 boundary",
    "right to left": "مجهر-٤٢ \u202eabc\u202c",
    "10,000 characters": "x" * 10_000,
    "10,000 wide characters": "界" * 10_000,
    "slashes": "a/b//c/../d",
    "markup": "<script>alert(1)</script>&amp;",
    "what an address is made of": "?a=b&c=%00#+;",
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("notebook", [NOTEBOOK, ""])
def test_odd_names_arrive_once(
    labarchives: Destination, context: ExportContext, monkeypatch: pytest.MonkeyPatch, what: str, notebook: str
) -> None:
    monkeypatch.setenv("NX_LABARCHIVES_NOTEBOOK_ID", notebook)
    get_settings.cache_clear()
    session = "".join(each for each in ODD[what] if each.isprintable())  # its record is XML
    odd = of_session(context, session)
    odd = replace(odd, session_identifier=ODD[what], instrument_pid=ODD[what], user=ODD[what])
    labarchives.export(odd)
    labarchives.server.calls.reset()
    assert labarchives.export(odd).metadata["done"] == "unchanged"
    rebuild(odd)
    odd.xml_file_path.write_bytes(b"<new/>")
    assert labarchives.export(odd).metadata["done"] == "updated"
    summary, record = (each for each in labarchives.objects if each["kind"] == "entry")
    assert record["sha256"] == sha256(odd)
    assert summary["part_type"] == ("text entry" if notebook else "Attachment")
    nodes = [each["name"] for each in labarchives.objects if each["kind"] != "entry"]
    assert len(nodes) == (3 if notebook else 0)
    assert all(0 < len(name) <= 200 for name in nodes)


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("method", ["insert_node", "add_entry", "add_attachment"])
def test_odd_names_are_found_again(labarchives: Destination, context: ExportContext, what: str, method: str) -> None:
    labarchives.export(of_session(context, "before", instrument_pid=ODD[what]))
    odd = replace(again(context), session_identifier=ODD[what], instrument_pid=ODD[what])
    labarchives.fail(odd, fault("504 after saving", "GET" if method == "insert_node" else "POST", method))
    labarchives.export(odd)
    entries = [each for each in labarchives.objects if each["kind"] == "entry" and page_title(odd) in each["path"]]
    assert len(entries) == 2
    assert len(named(labarchives, "page", page_title(odd))) == 1


def test_a_summary_shows_names_as_they_are(labarchives: Destination, context: ExportContext) -> None:
    labarchives.export(of_session(context, "s", instrument_pid=ODD["emoji"], user=ODD["right to left"]))
    (summary,) = [each for each in labarchives.objects if each.get("part_type") == "text entry"]
    assert ODD["emoji"] in summary["entry_data"]
    assert ODD["right to left"] in summary["entry_data"]


def with_previews(context: ExportContext, folder: Path, count: int, size: int) -> ExportContext:
    pictures = [folder / f"{number}.png" for number in range(count)]
    for picture in pictures:
        picture.write_bytes(bytes(size))
    files = tuple(Path(f"/data/{number}.dm3") for number in range(count))
    return replace(again(context), activities=[Activity(files, tuple(pictures))])


def test_previews_beyond_the_limit_of_a_summary_are_left_out(
    labarchives: Destination, context: ExportContext, tmp_path: Path
) -> None:
    context = with_previews(context, tmp_path, count=5, size=900_000)
    labarchives.export(context)
    text = check(labarchives, context)
    assert len(text.encode()) <= LONGEST_SUMMARY
    assert text.count("<img ") == 2
    assert "3 previews left out" in text


@pytest.mark.parametrize("notebook", [NOTEBOOK, ""])
def test_a_file_name_that_is_not_text_stops_nothing(
    labarchives: Destination, context: ExportContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, notebook: str
) -> None:
    monkeypatch.setenv("NX_LABARCHIVES_NOTEBOOK_ID", notebook)
    get_settings.cache_clear()
    picture = tmp_path / "a.gif"
    picture.write_bytes(TINY_PICTURE)
    name = Path(os.fsdecode(b"/data/gr\xf6sse\x01.dm3"))
    labarchives.export(replace(context, activities=[Activity((name,), (picture,))]))
    assert len([each for each in labarchives.objects if each["kind"] == "entry"]) == 2


@pytest.mark.parametrize("notebook", [NOTEBOOK, ""])
def test_a_summary_that_is_too_big_for_the_service_goes_without_its_previews(
    own_server: Callable[[Labarchives], StandInServer],
    context: ExportContext,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    notebook: str,
) -> None:
    monkeypatch.setenv("NX_LABARCHIVES_NOTEBOOK_ID", notebook)
    context = with_previews(context, tmp_path, count=1, size=9_000)
    server = own_server(SmallTexts(5_000))
    first = LabArchivesDestination().export(context)
    summary, record = (each for each in server.objects(content=True) if each["kind"] == "entry")
    assert (first.success, record["sha256"]) == (True, sha256(context))
    assert summary["size"] < 5_000
    if not notebook:
        return
    assert "data:image" not in summary["entry_data"]
    server.calls.reset()
    assert LabArchivesDestination().export(context).metadata["done"] == "unchanged"
    assert server.calls.as_json()["total"] == 0
    context.activities.append(Activity((Path("/data/second.dm3"),), (None,)))
    assert LabArchivesDestination().export(context).metadata["done"] == "updated"
    summary, _ = (each for each in server.objects(content=True) if each["kind"] == "entry")
    assert "second.dm3" in summary["entry_data"]


class SmallTexts(Labarchives):
    """Takes no body of more bytes than `most`."""

    def __init__(self, most: int) -> None:
        super().__init__(LABARCHIVES_ACCOUNT, max_file_size=most)
        self._most = most

    def answer(self, request: Request) -> Response:
        if len(request.body) > self._most:
            return error_response("entries", 413, 4521, "The entry is too big.")
        return super().answer(request)


@pytest.mark.parametrize("notebook", [NOTEBOOK, ""])
def test_a_record_that_is_too_big_is_refused_in_a_clear_sentence(
    own_server: Callable[[Labarchives], StandInServer],
    context: ExportContext,
    monkeypatch: pytest.MonkeyPatch,
    notebook: str,
) -> None:
    monkeypatch.setenv("NX_LABARCHIVES_NOTEBOOK_ID", notebook)
    own_server(Labarchives(LABARCHIVES_ACCOUNT, max_file_size=100_000))
    context.xml_file_path.write_bytes(b"x" * 200_001)
    with pytest.raises(PermanentError) as caught:
        LabArchivesDestination().export(context)
    assert str(caught.value) == (
        "LabArchives refused POST entries/add_attachment (error 4521), it says: The file is too big. What was sent is "
        "larger than LabArchives takes: ask its administrators for a larger upload limit, then retry the record. "
        "It has 0.2 MB."
    )
    context.xml_file_path.write_bytes(b"x" * 100_000)
    assert LabArchivesDestination().export(context).success


# --- checks


def found(destination: LabArchivesDestination) -> dict[str, str]:
    """What each check says: what it found, or the error that it raised."""
    findings = {}
    for look_at in destination.checks():
        try:
            findings[look_at.name] = look_at.look()
        except ExportError as problem:
            kind = ConfigurationError if isinstance(problem, ConfigurationError) else type(problem)
            findings[look_at.name] = f"{kind.__name__}: {problem}"
    return findings


def test_the_checks_find_everything_in_order(labarchives: Destination, context: ExportContext) -> None:
    labarchives.export(context)
    labarchives.server.calls.reset()
    before = labarchives.objects
    findings = found(LabArchivesDestination())
    assert findings.pop("clock").endswith("s apart")
    assert findings == {
        "reachable": "answers (200)",
        "authentication": "acts as Sandbox User",
        "notebook": "'Sandbox Notebook' is readable, 1 at its top",
        "rights": "the user may write to the folder 'NexusLIMS Records'",
        "upload size": "262.1 MB at most",
    }
    assert labarchives.objects == before
    assert labarchives.writing_calls == []
    assert len(labarchives.calls) == 7


@pytest.mark.parametrize(
    ("service", "setting", "wrong"),
    [
        (
            {"clock": lambda: time.time() - 600},
            {},
            {
                "clock": "behind ours",
                "authentication": "4504",
                "notebook": "4504",
                "rights": "4504",
                "upload size": "4504",
            },
        ),
        (
            {},
            {"NX_LABARCHIVES_ACCESS_PASSWORD": "wrong"},
            dict.fromkeys(("authentication", "notebook", "rights", "upload size"), "check NX_LABARCHIVES_ACCESS_PASSW"),
        ),
        (
            {},
            {"NX_LABARCHIVES_USER_ID": "nobody"},
            dict.fromkeys(("authentication", "notebook", "rights", "upload size"), "check NX_LABARCHIVES_USER_ID"),
        ),
        (
            {},
            {"NX_LABARCHIVES_NOTEBOOK_ID": "another"},
            dict.fromkeys(("notebook", "rights"), "check NX_LABARCHIVES_NOTEBOOK_ID"),
        ),
        ({"read_only": True}, {}, {"rights": "may not write to the folder"}),
    ],
)
def test_the_checks_name_what_is_wrong_and_nothing_else(
    own_server: Callable[[Labarchives], StandInServer],
    monkeypatch: pytest.MonkeyPatch,
    service: dict[str, Any],
    setting: dict[str, str],
    wrong: dict[str, str],
) -> None:
    state = Labarchives(LABARCHIVES_ACCOUNT, **service)
    state.notebook.nodes["top"] = Node("top", ROOT, "NexusLIMS Records", is_page=False)
    own_server(state)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    findings = found(LabArchivesDestination())
    assert {name for name, said in findings.items() if said.startswith("ConfigurationError: ")} == set(wrong)
    for name, said in wrong.items():
        assert said in findings[name]


def test_the_checks_tell_an_address_at_which_nobody_answers(labarchives: Destination) -> None:
    labarchives.server.stop()
    try:
        findings = found(LabArchivesDestination())
    finally:
        labarchives.server.start()
    assert "refused the connection" in findings["reachable"]


def test_the_checks_tell_an_address_that_is_somebody_else_s(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NX_LABARCHIVES_URL", stand_ins.elabftw.url)
    get_settings.cache_clear()
    assert found(LabArchivesDestination())["reachable"].startswith("ConfigurationError: ")
