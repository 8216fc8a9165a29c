from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qs

import pytest

from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportDestination,
    ExportError,
    ExportResult,
    MemoryCheckpoint,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.destinations.labarchives import LabArchivesDestination, web_address
from nexus_tasks.exporters.labarchives_signature import signature
from tests.unit.exporters.conftest import FakeServer, Received, Reply

LEVEL = "GET /api/tree_tools/get_tree_level"
INSERT = "GET /api/tree_tools/insert_node"
ENTRIES = "GET /api/tree_tools/get_entries_for_page"
ENTRY = "POST /api/entries/add_entry"
ATTACH = "POST /api/entries/add_attachment"
UPDATE_FILE = "POST /api/entries/update_attachment"


class FakeLabArchives:
    """One notebook, as a list of nodes; `replies` has the answers of calls that go wrong."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, str, str, bool]] = []  # tree id, parent, text, is_folder
        self.replies: dict[str, Reply] = {}

    def add(self, parent: str, text: str, *, is_folder: bool) -> str:
        tree_id = f"N{len(self.nodes) + 1}+/="
        self.nodes.append((tree_id, parent, text, is_folder))
        return tree_id

    def answer(self, received: Received) -> Reply:
        if received.call in self.replies:
            return self.replies[received.call]
        query = received.query
        if received.call == LEVEL:
            levels = "".join(
                f"<level-node><is-page>{str(not folder).lower()}</is-page><display-text>{text}</display-text>"
                f"<tree-id>{tree_id}</tree-id></level-node>"
                for tree_id, parent, text, folder in self.nodes
                if parent == query["parent_tree_id"]
            )
            return Reply(200, f"<tree-tools><level-nodes>{levels}</level-nodes></tree-tools>")
        if received.call == INSERT:
            known = {"0"} | {node[0] for node in self.nodes}
            if query["parent_tree_id"] not in known:
                return Reply(404, "<tree-tools><error><error-code>4999</error-code></error></tree-tools>")
            made = self.add(query["parent_tree_id"], query["display_text"], is_folder=query["is_folder"] == "true")
            return Reply(200, f"<tree-tools><node><tree-id>{made}</tree-id></node></tree-tools>")
        return Reply(200, "<entries><entry><eid>E1+/=</eid></entry></entries>")


@pytest.fixture
def labarchives(server: FakeServer, configure: Callable[..., None]) -> FakeLabArchives:
    configure(
        NX_LABARCHIVES_URL=server.url,
        NX_LABARCHIVES_ACCESS_KEY_ID="akid1",
        NX_LABARCHIVES_ACCESS_PASSWORD="passw0rd",
        NX_LABARCHIVES_USER_ID="u1d+/=",
        NX_LABARCHIVES_NOTEBOOK_ID="nb1d=",
    )
    fake = FakeLabArchives()
    server.answer = fake.answer
    return fake


def again(context: ExportContext) -> ExportContext:
    return replace(context, checkpoint=MemoryCheckpoint())


def test_it_is_a_destination() -> None:
    destination = LabArchivesDestination()
    assert isinstance(destination, ExportDestination)
    assert (destination.name, destination.priority, destination.depends_on) == ("labarchives", 90, ("cdcs",))
    assert destination.window == 1


def test_a_page_is_made_in_its_folders(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext
) -> None:
    link = "https://cdcs.example.org/data?id=5"
    context.previous_results["cdcs"] = ExportResult(success=True, destination_name="cdcs", record_url=link)
    result = LabArchivesDestination().export(context)
    assert labarchives.nodes == [
        ("N1+/=", "0", "NexusLIMS Records", True),
        ("N2+/=", "N1+/=", "FEI-Titan-TEM-012345", True),
        ("N3+/=", "N2+/=", "2025-01-27 — 2025-01-27_10-30-15_abc123", False),
    ]
    assert server.calls == [LEVEL, INSERT, LEVEL, INSERT, INSERT, ENTRY, ATTACH]
    assert result.record_id == "N3+/="
    assert result.record_url == f"{server.url}/#/nb1d=/N3+/="
    assert result.metadata == {
        "done": "created",
        "notebook_id": "nb1d=",
        "summary_entry_id": "E1+/=",
        "attachment_entry_id": "E1+/=",
        "cdcs_url": link,
    }
    entry, attachment = server.received[-2:]
    form = parse_qs(entry.body.decode())
    assert link in form["entry_data"][0]
    assert entry.query["part_type"] == "text entry"
    assert entry.query["pid"] == attachment.query["pid"] == "N3+/="
    assert attachment.query["filename"].endswith("_abc123.xml")
    assert attachment.body == context.xml_file_path.read_bytes()


def test_each_call_is_signed(server: FakeServer, labarchives: FakeLabArchives, context: ExportContext) -> None:
    LabArchivesDestination().export(context)
    for received in server.received:
        query = received.query
        method = received.path.rpartition("/")[2]
        assert query["uid"] == "u1d+/="
        assert query["sig"] == signature("akid1", method, int(query["expires"]), "passw0rd")


def test_from_the_second_record_on_it_takes_three_calls(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext
) -> None:
    destination = LabArchivesDestination()
    destination.export(context)
    server.received.clear()
    destination.export(again(context))
    assert server.calls == [INSERT, ENTRY, ATTACH]
    assert len(server.connections) == 1


def test_folders_that_are_there_are_used_by_their_exact_text(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext
) -> None:
    labarchives.add("0", "nexuslims records", is_folder=True)
    labarchives.add("0", "NexusLIMS Records", is_folder=False)
    top = labarchives.add("0", "NexusLIMS Records", is_folder=True)
    mine = labarchives.add(top, "FEI-Titan-TEM-012345", is_folder=True)
    LabArchivesDestination().export(context)
    assert labarchives.nodes[-1][1] == mine
    assert server.calls == [LEVEL, LEVEL, INSERT, ENTRY, ATTACH]


def test_a_folder_that_was_deleted_is_made_again(labarchives: FakeLabArchives, context: ExportContext) -> None:
    destination = LabArchivesDestination()
    destination.export(context)
    labarchives.nodes[:] = [("X", "", "", True)] * 10
    destination.export(again(context))
    assert [node[2] for node in labarchives.nodes[10:]] == [
        "NexusLIMS Records",
        "FEI-Titan-TEM-012345",
        "2025-01-27 — 2025-01-27_10-30-15_abc123",
    ]


def test_a_retry_goes_on_where_the_last_try_stopped(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext
) -> None:
    labarchives.replies[ATTACH] = Reply(502)
    with pytest.raises(TransientError):
        LabArchivesDestination().export(context)
    labarchives.replies.clear()
    server.received.clear()
    LabArchivesDestination().export(context)
    assert server.calls == [ENTRIES, ATTACH]


def test_without_a_notebook_both_files_go_to_the_inbox(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext, configure: Callable[..., None]
) -> None:
    configure(NX_LABARCHIVES_NOTEBOOK_ID="")
    result = LabArchivesDestination().export(context)
    assert server.calls == [ATTACH, ATTACH]
    assert not any({"nbid", "pid"} & received.query.keys() for received in server.received)
    assert [received.query["filename"][-5:] for received in server.received] == [".html", "3.xml"]
    assert server.received[0].body.startswith(b"<!DOCTYPE html>")
    assert result.success
    assert result.record_id == "E1+/="
    assert result.record_url is None
    assert result.metadata["done"] == "created"


def test_files_in_the_inbox_are_brought_up_to_date_there(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext, configure: Callable[..., None]
) -> None:
    configure(NX_LABARCHIVES_NOTEBOOK_ID="")
    LabArchivesDestination().export(context)
    context.xml_file_path.write_bytes(b"<Experiment>new</Experiment>")
    configure(NX_LABARCHIVES_NOTEBOOK_ID="nb1d=")
    server.received.clear()
    assert LabArchivesDestination().export(context).metadata["done"] == "updated"
    assert server.calls == [UPDATE_FILE]
    assert server.received[0].body == b"<Experiment>new</Experiment>"
    assert server.received[0].query["eid"] == "E1+/="


def test_a_page_stays_in_its_notebook(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext, configure: Callable[..., None]
) -> None:
    LabArchivesDestination().export(context)
    server.received.clear()
    configure(NX_LABARCHIVES_NOTEBOOK_ID="another=")
    result = LabArchivesDestination().export(context)
    assert (result.metadata["notebook_id"], result.metadata["done"]) == ("nb1d=", "unchanged")
    assert server.calls == []


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(401, "<error><error-code>4520</error-code></error>"), ConfigurationError, "ACCESS_PASSWORD"),
        (
            Reply(400, "<users><error><code>4506</code><msg>x</msg></error></users>"),
            ConfigurationError,
            "ACCESS_KEY_ID",
        ),
        (Reply(200, "<users><error><error-code>4507</error-code></error></users>"), ConfigurationError, "USER_ID"),
        (Reply(403, "<error><error-code>4509</error-code></error>"), ConfigurationError, "NOTEBOOK_ID"),
        (Reply(400, "<error><error-code>4504</error-code></error>"), ConfigurationError, "clock"),
        (Reply(413, "<error><error-code>4521</error-code></error>"), PermanentError, "larger than LabArchives takes"),
        (Reply(500, "<error><error-code>4999</error-code></error>"), TransientError, "4999"),
        (Reply(400, "<error><error-code>4999</error-code></error>"), PermanentError, "400"),
        (Reply(500, "<error><error-code>4533</error-code></error>"), TransientError, "4533"),
        (Reply(429, "<error/>"), TransientError, "fewer calls"),
        (Reply(404, "<error><error-code>1</error-code></error>"), PermanentError, "404"),
        (Reply(200, "<error><error-code>1</error-code></error>"), PermanentError, "error 1"),
        (Reply(404, "<html>Not found"), ConfigurationError, "NX_LABARCHIVES_URL"),
        (Reply(502, "<html>Bad gateway"), TransientError, "502"),
        (Reply(200, "<html>log in"), TransientError, "not XML"),
        (Reply(200, "<tree-tools/>"), TransientError, "without the id"),
    ],
)
def test_errors_are_told_apart_in_each_of_their_shapes(
    labarchives: FakeLabArchives, context: ExportContext, reply: Reply, kind: type[ExportError], said: str
) -> None:
    labarchives.replies[INSERT] = reply
    with pytest.raises(kind, match=said) as caught:
        LabArchivesDestination().export(context)
    told = str(caught.value)
    assert not any(secret in told for secret in ("passw0rd", "u1d", "akid1", "sig="))


def test_a_repeated_call_waits_a_second_at_least(labarchives: FakeLabArchives, context: ExportContext) -> None:
    for asked, wait in (({}, 1), ({"Retry-After": "0"}, 1), ({"Retry-After": "30"}, 30)):
        labarchives.replies[LEVEL] = Reply(503, headers=asked)
        with pytest.raises(TransientError) as caught:
            LabArchivesDestination().export(context)
        assert caught.value.retry_after == wait


def test_an_error_in_a_look_up_is_not_taken_for_an_empty_folder(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext
) -> None:
    labarchives.replies[LEVEL] = Reply(200, "<error><error-code>4520</error-code></error>")
    with pytest.raises(ConfigurationError):
        LabArchivesDestination().export(context)
    assert server.calls == [LEVEL]


def test_the_address_may_end_in_api(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext, configure: Callable[..., None]
) -> None:
    configure(NX_LABARCHIVES_URL=f"{server.url}/api/")
    result = LabArchivesDestination().export(context)
    assert server.calls[0] == LEVEL
    assert result.record_url == f"{server.url}/#/nb1d=/N3+/="


@pytest.mark.parametrize(
    ("api", "web"),
    [
        ("https://api.labarchives.com", "https://mynotebook.labarchives.com"),
        ("https://api.labarchives.com/api", "https://mynotebook.labarchives.com"),
        ("https://auapi.labarchives.com/api", "https://au-mynotebook.labarchives.com"),
        ("https://ukapi.labarchives.com", "https://uk-mynotebook.labarchives.com"),
        ("https://eln.example.org/api", "https://eln.example.org"),
        ("http://127.0.0.1:8002", "http://127.0.0.1:8002"),
    ],
)
def test_people_open_pages_at_the_web_address(api: str, web: str) -> None:
    assert web_address(api) == web


def test_its_settings_are_checked_without_network(labarchives: FakeLabArchives, configure: Callable[..., None]) -> None:
    destination = LabArchivesDestination()
    assert destination.enabled
    assert destination.validate_config() == (True, None)
    configure(NX_LABARCHIVES_USER_ID="", NX_LABARCHIVES_ACCESS_KEY_ID="")
    assert not LabArchivesDestination().enabled
    valid, problem = destination.validate_config()
    assert not valid
    assert problem is not None
    assert problem.startswith("NX_LABARCHIVES_ACCESS_KEY_ID and NX_LABARCHIVES_USER_ID are missing: LabArchives needs")
