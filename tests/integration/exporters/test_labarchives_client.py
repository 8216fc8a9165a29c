"""What the destination keeps in LabArchives, read by a client that others have written; and that client by itself.

`labapi` knows the real service. Where it and the destination make the same call, they make it alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pytest

from nexus_tasks.exporters.base import ExportContext, MemoryCheckpoint
from nexus_tasks.exporters.destinations.labarchives import LabArchivesDestination, page_title, web_address
from nexus_tasks.exporters.labarchives.api import ROOT, EntryText, LabArchivesApi
from nexus_tasks.exporters.labarchives.api import Account as OurAccount
from nexus_tasks.exporters.labarchives.page import XML_CAPTION
from nexus_tasks.exporters.labarchives.signature import signature
from nexus_tasks.exporters.title import attachment_name
from nexus_tasks.sandbox.services.faults import Fault
from nexus_tasks.sandbox.services.labarchives.account import Account
from nexus_tasks.sandbox.services.labarchives.service import Labarchives
from nexus_tasks.sandbox.services.labarchives.xml import error_response
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.server import StandInServer
from nexus_tasks.sandbox.services.standins import LABARCHIVES_ACCOUNT as ACCOUNT
from nexus_tasks.sandbox.services.standins import StandIns
from tests.integration.exporters.conftest import INSTRUMENT, Destination, rebuild
from tests.requirements import require_module

require_module("labapi", "labapi")

from labapi import (  # noqa: E402 - after the rule for what may be missing
    ApiError,
    Attachment,
    AttachmentEntry,
    AuthenticationError,
    Client,
    HeaderEntry,
    InsertBehavior,
    Notebook,
    NotebookDirectory,
    NotebookPage,
    PlainTextEntry,
    TextEntry,
    User,
)

SIGNING = {"akid", "expires", "sig"}


def opened(url: str, account: Account = ACCOUNT) -> Client:
    client = Client(url, account.akid, account.password, web_url=url)  # without /api
    client.session.trust_env = False
    return client


@pytest.fixture
def client(stand_ins: StandIns) -> Iterator[Client]:
    with opened(stand_ins.labarchives.url) as client:
        yield client


@pytest.fixture
def user(client: Client) -> User:
    return client.login(ACCOUNT.login, ACCOUNT.login_password)


@pytest.fixture
def notebook(user: User) -> Notebook:
    (notebook,) = user.notebooks.all_values()
    return notebook


def page_of(notebook: Notebook, context: ExportContext) -> NotebookPage:
    folder = notebook["NexusLIMS Records"].as_dir()[context.instrument_pid].as_dir()
    return folder[page_title(context)].as_page()


# --- what the destination writes


def test_it_reads_the_page_in_its_folders_with_summary_and_record(
    labarchives: Destination, context: ExportContext, notebook: Notebook
) -> None:
    result = labarchives.export(context)
    (top,) = notebook.children
    (instrument,) = top.as_dir().children
    (page,) = instrument.as_dir().children
    assert [top.name, instrument.name, page.name] == ["NexusLIMS Records", INSTRUMENT, page_title(context)]
    assert (page.tree_id, page.is_dir()) == (result.record_id, False)
    summary, record = page.as_page().entries
    assert isinstance(summary, TextEntry)
    assert isinstance(record, AttachmentEntry)
    assert (summary.id, record.id) == (result.metadata["summary_entry_id"], result.metadata["attachment_entry_id"])
    assert context.session_identifier in summary.content
    assert "a.dm3" in summary.content


def test_it_gets_the_record_byte_for_byte(labarchives: Destination, context: ExportContext, notebook: Notebook) -> None:
    content = bytes(range(256)) * 300 + "Größe 5 µm & <b> + = %00 \r\n".encode()
    context.xml_file_path.write_bytes(content)
    labarchives.export(context)
    entry = page_of(notebook, context).entries[1]
    assert isinstance(entry, AttachmentEntry)
    assert entry.content.read() == content
    assert (entry.content.filename, entry.caption) == (attachment_name(context), XML_CAPTION)
    assert entry.content.mime_type in {"application/xml", "text/xml"}


def test_it_sees_a_rebuilt_record_in_the_same_place(
    labarchives: Destination, context: ExportContext, notebook: Notebook
) -> None:
    labarchives.export(context)
    before = [entry.id for entry in page_of(notebook, context).entries]
    rebuild(context)
    labarchives.export(context)
    summary, record = page_of(notebook, context).refresh().entries
    assert [summary.id, record.id] == before
    assert "second.dm3" in str(summary.content)
    assert isinstance(record, AttachmentEntry)
    assert record.content.read() == context.xml_file_path.read_bytes()


def test_a_page_that_people_rename_and_move_is_still_brought_up_to_date(
    labarchives: Destination, context: ExportContext, notebook: Notebook
) -> None:
    labarchives.export(context)
    page = page_of(notebook, context)
    page.name = "Grain boundaries"
    page.move_to(notebook.dir("Paper 2026"))
    rebuild(context)
    assert labarchives.export(context).record_id == page.tree_id
    moved = notebook.refresh()["Paper 2026"].as_dir()["Grain boundaries"].as_page()
    assert "second.dm3" in str(moved.entries[0].content)


def test_what_people_write_with_it_is_kept(
    labarchives: Destination, context: ExportContext, notebook: Notebook
) -> None:
    labarchives.export(context)
    page = page_of(notebook, context)
    page.entries[0].content = "<p>mine</p>"
    own = page.entries.create(PlainTextEntry, "beside it")
    rebuild(context)
    labarchives.export(context)
    texts = [entry.content for entry in page.refresh().entries if not isinstance(entry, AttachmentEntry)]
    assert texts[:2] == ["<p>mine</p>", "beside it"]
    assert "by hand" in str(texts[2])
    assert own.id in [entry.id for entry in page.entries]


def test_folders_that_it_has_made_are_used(
    labarchives: Destination, context: ExportContext, notebook: Notebook
) -> None:
    folder = notebook.dir(f"NexusLIMS Records/{INSTRUMENT}")
    labarchives.export(context)
    assert [page.name for page in folder.refresh().children] == [page_title(context)]
    assert len(notebook.refresh().children) == 1


def test_what_it_deletes_is_moved_and_whoever_looks_anew_makes_new_folders(
    labarchives: Destination, context: ExportContext, notebook: Notebook
) -> None:
    labarchives.export(context)
    notebook.dir("NexusLIMS Records").delete()  # there is no such call: it moves it into a folder "API Deleted Items"
    fresh = replace(context, checkpoint=MemoryCheckpoint(), shared=MemoryCheckpoint())
    labarchives.export(fresh)
    assert page_of(notebook.refresh(), context).entries


def test_both_know_where_people_open_a_notebook() -> None:
    from labapi.client import _WEB_UI_HOSTS

    ours = {host: web_address(f"https://{host}/api") for host in _WEB_UI_HOSTS}
    assert ours == {host: f"https://{web}" for host, web in _WEB_UI_HOSTS.items()}


# --- by itself against the stand-in


def test_it_logs_in_and_finds_the_notebook(client: Client, user: User) -> None:
    assert user.id == ACCOUNT.uid
    (notebook,) = user.notebooks.all_values()
    assert (notebook.id, notebook.name, notebook.is_default) == (ACCOUNT.nbid, "Sandbox Notebook", True)
    assert user.get_max_upload_size() == 262_144_000


def test_it_builds_and_reads_a_notebook(notebook: Notebook) -> None:
    page = notebook.create(NotebookPage, "a/b/page", parents=True)
    page.entries.create(HeaderEntry, "Heading")
    text = page.entries.create(TextEntry, "<p>5 µm & 3 < 4 🔬</p>")
    file = page.entries.create(AttachmentEntry, Attachment(BytesIO(b"\x00\xff"), "image/png", "p q.png", "caption"))
    text.content = "<p>new</p>"
    file.content = Attachment(BytesIO(b"new bytes"), "image/png", "r.png", "another")
    read = notebook.refresh().traverse("/a/b/page").as_page().entries
    assert [entry.content_type for entry in read] == ["heading", "text entry", "Attachment"]
    assert [entry.content for entry in read][:2] == ["Heading", "<p>new</p>"]
    again = read[2].content
    assert (again.read(), again.filename, again.caption) == (b"new bytes", "r.png", "another")


def test_the_same_name_twice_makes_two_nodes(notebook: Notebook) -> None:
    for _ in range(2):
        notebook.create(NotebookDirectory, "twice", if_exists=InsertBehavior.Ignore)
    assert notebook.refresh().all_keys() == ("twice", "twice")


@pytest.mark.parametrize(
    ("change", "code"),
    [({"akid": "other"}, 4506), ({"password": "other"}, 4520), ({"login_password": "other"}, 4514)],
)
def test_it_understands_why_it_is_not_let_in(stand_ins: StandIns, change: dict[str, str], code: int) -> None:
    account = replace(ACCOUNT, **change)
    with opened(stand_ins.labarchives.url, account) as client, pytest.raises(AuthenticationError) as caught:
        client.login(account.login, account.login_password)
    assert caught.value.error_code == code


def test_it_understands_errors_that_are_nested(client: Client, user: User) -> None:
    with pytest.raises(ApiError) as caught:
        user.api_get("tree_tools/get_tree_level", nbid="other", parent_tree_id=ROOT)
    assert caught.value.error_code == 4509
    with pytest.raises(ApiError) as caught:
        User("other", "", [], client).api_get("users/max_file_size")
    assert caught.value.error_code == 4507


@pytest.mark.parametrize(("code", "kind"), [(4533, AuthenticationError), (4999, ApiError)])
@pytest.mark.parametrize("root", ["error", "users"])
def test_it_understands_a_session_that_is_over_and_a_defect(
    stand_ins: StandIns, user: User, code: int, kind: type[ApiError], root: str
) -> None:
    body = error_response(root, 500, code, "played").body.decode()
    stand_ins.labarchives.faults.replace([Fault.from_json({"kind": "status", "status": 500, "body": body})])
    with pytest.raises(kind) as caught:
        user.get_max_upload_size()
    assert caught.value.error_code == code


def test_a_file_that_is_too_big_is_an_error_for_it() -> None:
    server = StandInServer(Labarchives(ACCOUNT, max_file_size=10))
    server.start()
    try:
        with opened(server.url) as client:
            user = client.login(ACCOUNT.login, ACCOUNT.login_password)
            page = user.notebooks["Sandbox Notebook"].page("p")
            with pytest.raises(
                ApiError, match="4521"
            ):  # its code stands in the shape code/msg, which labapi shows whole
                page.entries.create(AttachmentEntry, Attachment(BytesIO(b"x" * 11), "text/plain", "f.txt", ""))
    finally:
        server.stop()


# --- call by call


class Recording(Labarchives):
    """The stand-in, with every call as it came in."""

    def __init__(self) -> None:
        super().__init__(ACCOUNT)
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        return super().answer(request)


@dataclass(frozen=True)
class Made:
    """One call, parameter by parameter."""

    verb: str
    query: dict[str, str]
    form: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, request: Request) -> "Made":
        form = {name: values[0] for name, values in request.form().items()}
        query = {name: values[0] for name, values in request.query.items()}
        return cls(request.method, query, form, b"" if form else request.body)


@pytest.fixture
def recording() -> Iterator[StandInServer]:
    server = StandInServer(Recording())
    server.start()
    yield server
    server.stop()


def last_call(server: StandInServer, path: str) -> Made:
    assert isinstance(server.service, Recording)
    return Made.of(next(each for each in reversed(server.service.requests) if each.path == f"/api/{path}"))


# What labapi sends and we do not, and where the same thing is spelled in two ways.
# `change_description` is for the history of a page, and optional: an update of ours says what it is by its caption.
# Truth values: the documentation writes them small; the stand-in reads either.
MORE_IN_LABAPI = {
    "entries/add_attachment": {"change_description"},
    "entries/update_attachment": {"change_description"},
}
SPELLED_OTHERWISE = {"tree_tools/get_entries_for_page": {"entry_data": ("true", "True")}}
NAMED = {
    "tree_tools/get_tree_level": {"nbid", "parent_tree_id"},
    "tree_tools/insert_node": {"nbid", "parent_tree_id", "display_text", "is_folder"},
    "tree_tools/get_entries_for_page": {"nbid", "page_tree_id", "entry_data"},
    "entries/add_entry": {"nbid", "pid", "part_type", "entry_data"},
    "entries/update_entry": {"eid", "entry_data"},
    "entries/add_attachment": {"nbid", "pid", "filename", "caption"},
    "entries/update_attachment": {"eid", "filename", "caption"},
    "entries/entry_attachment": {"eid"},
    "users/max_file_size": set(),
}


@pytest.fixture
def both(recording: StandInServer) -> Iterator[dict[str, tuple[Callable[[], object], Callable[[], object]]]]:
    """For each method, the same thing done by us and by labapi."""
    us = LabArchivesApi(recording.url, OurAccount(ACCOUNT.akid, ACCOUNT.password, ACCOUNT.uid))
    with opened(recording.url) as client:
        user = client.login(ACCOUNT.login, ACCOUNT.login_password)
        notebook = user.notebooks["Sandbox Notebook"]
        page = notebook.page("page")
        nbid, pid, html = ACCOUNT.nbid, page.id, "<p>a & b = µ</p>"

        def file() -> Attachment:
            return Attachment(BytesIO(b"\x00a=b&c"), "text/xml", "r & s.xml", "the record")

        ours, theirs = file().read(), file
        text = page.entries.create(TextEntry, "old")
        attached = page.entries.create(AttachmentEntry, theirs())
        attached._filedata = None
        yield {
            "tree_tools/get_tree_level": (
                lambda: us.get_tree_level(nbid, ROOT),
                lambda: notebook.refresh().children,
            ),
            "tree_tools/insert_node": (
                lambda: us.insert_node(nbid, ROOT, "a/b & c", is_folder=True),
                lambda: notebook.create(NotebookDirectory, r"a\/b & c", if_exists=InsertBehavior.Ignore),
            ),
            "tree_tools/get_entries_for_page": (
                lambda: us.get_entries_for_page(nbid, pid),
                lambda: list(page.refresh().entries),
            ),
            "entries/add_entry": (
                lambda: us.add_text_entry(nbid, pid, EntryText(html)),
                lambda: page.entries.create(TextEntry, html),
            ),
            "entries/update_entry": (
                lambda: us.update_entry(text.id, EntryText(html)),
                lambda: setattr(text, "content", html),
            ),
            "entries/add_attachment": (
                lambda: us.add_attachment("r & s.xml", ours, "the record", nbid, pid),
                lambda: page.entries.create(AttachmentEntry, theirs()),
            ),
            "entries/update_attachment": (
                lambda: us.update_attachment(attached.id, "r & s.xml", ours, "the record"),
                lambda: setattr(attached, "content", theirs()),
            ),
            "entries/entry_attachment": (
                lambda: us.entry_attachment(attached.id),
                lambda: attached.content,
            ),
            "users/max_file_size": (us.max_file_size, user.get_max_upload_size),
        }


@pytest.mark.parametrize("path", NAMED)
def test_the_same_thing_is_asked_for_in_the_same_words(
    recording: StandInServer, both: dict[str, tuple[Callable[[], object], Callable[[], object]]], path: str
) -> None:
    by_us, by_labapi = both[path]
    by_us()
    ours = last_call(recording, path)
    by_labapi()
    theirs = last_call(recording, path)

    assert set(ours.query | ours.form) == NAMED[path] | SIGNING | {"uid"}
    assert set(theirs.query) - set(ours.query) == MORE_IN_LABAPI.get(path, set())
    assert (ours.verb, set(ours.form), ours.body) == (theirs.verb, set(theirs.form), theirs.body)
    differing = {
        name: (value, (theirs.query | theirs.form)[name])
        for name, value in (ours.query | ours.form).items()
        if name not in {"expires", "sig"} and value != (theirs.query | theirs.form)[name]
    }
    assert differing == SPELLED_OTHERWISE.get(path, {})


@pytest.mark.parametrize("path", NAMED)
def test_both_sign_in_the_same_way_for_about_now(
    recording: StandInServer, both: dict[str, tuple[Callable[[], object], Callable[[], object]]], path: str
) -> None:
    method, moments = path.rpartition("/")[2], []
    for call in both[path]:
        call()
        made = last_call(recording, path).query
        moments.append(int(made["expires"]))
        assert made["sig"] == signature(ACCOUNT.akid, method, moments[-1], ACCOUNT.password)
    assert 50_000 < moments[1] - moments[0] < 70_000  # labapi signs for a minute ahead, we for the moment itself


def test_the_destination_makes_no_call_that_the_table_lacks(
    recording: StandInServer,
    context: ExportContext,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stand_ins: StandIns,
) -> None:
    from nexus_tasks.config import get_settings

    monkeypatch.setenv("NX_LABARCHIVES_URL", recording.url)
    get_settings.cache_clear()
    LabArchivesDestination().export(context)
    rebuild(context)
    LabArchivesDestination().export(context)
    assert isinstance(recording.service, Recording)
    made = {request.path.removeprefix("/api/") for request in recording.service.requests}
    assert made <= set(NAMED)
    assert len(made) >= 6
