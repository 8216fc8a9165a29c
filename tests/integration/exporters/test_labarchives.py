import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Activity, ExportContext, PermanentError, TransientError
from nexus_tasks.exporters.destinations.labarchives import XML_CAPTION, page_title
from nexus_tasks.exporters.http import before_each_write
from nexus_tasks.exporters.labarchives_api import ROOT, Account, LabArchivesApi
from nexus_tasks.exporters.title import attachment_name
from nexus_tasks.sandbox.services.labarchives import Labarchives
from nexus_tasks.sandbox.services.standins import LABARCHIVES_ACCOUNT
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
    people.update_entry(eid, "<p>grain boundary at 5 µm</p>")
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
    people.update_entry(eid, "people's")
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
    people.update_entry(eid, summary["entry_data"] + '<img src="https://lab.example.org/p.png">')
    labarchives.export(linked(context))
    assert "p.png" in on_page(labarchives, context)[0][0]["entry_data"]


@pytest.mark.parametrize("what", ["page", "summary", "attachment"])
def test_what_people_have_deleted_is_made_again_only_when_asked(
    labarchives: Destination, context: ExportContext, what: str
) -> None:
    result = labarchives.export(context)
    state = service(labarchives)  # its interface has no call that deletes
    if what == "page":
        del state._nodes[result.record_id or ""]
    else:
        del state._entries[result.metadata[f"{what}_entry_id"]]
    rebuild(context)
    count = len(labarchives.objects)
    with pytest.raises(PermanentError, match=f"nexus-tasks retry {SESSION} --destination labarchives --recreate"):
        labarchives.export(context)
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
        people.add_text_entry(NOTEBOOK, page["id"], text)
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


def test_each_writing_call_is_checked_directly_before_it(labarchives: Destination, context: ExportContext) -> None:
    checks: list[int] = []
    with before_each_write(lambda: checks.append(len(labarchives.writing_calls))):
        labarchives.export(context)
        rebuild(context)
        labarchives.export(context)
    assert labarchives.writing_calls == [INSERT, INSERT, INSERT, ADD, ATTACH, UPDATE, UPDATE_FILE]
    assert checks == list(range(7))


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
