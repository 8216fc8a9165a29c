import re
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any
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
from nexus_tasks.exporters.destinations.labarchives import LabArchivesDestination
from nexus_tasks.exporters.http import before_each_call
from nexus_tasks.exporters.labarchives.export import web_address
from nexus_tasks.exporters.labarchives.folders import LONGEST_NAME, node_name
from nexus_tasks.exporters.labarchives.signature import signature
from tests.unit.exporters.conftest import FakeServer, Received, Reply

LEVEL = "GET /api/tree_tools/get_tree_level"
INSERT = "GET /api/tree_tools/insert_node"
ENTRIES = "GET /api/tree_tools/get_entries_for_page"
ENTRY = "POST /api/entries/add_entry"
ATTACH = "POST /api/entries/add_attachment"
WHO = "GET /api/users/user_info_via_id"
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


def test_a_call_is_signed_when_its_turn_has_come(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_800_000_000]
    monkeypatch.setattr("nexus_tasks.exporters.labarchives.api.time", SimpleNamespace(time=lambda: now[-1]))
    with before_each_call(lambda: now.append(now[-1] + 130)):  # a turn later than a signature would hold
        LabArchivesDestination().export(context)
    assert [int(received.query["expires"]) for received in server.received] == [each * 1000 for each in now[1:]]


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


@pytest.mark.parametrize("now", ["another=", ""])
@pytest.mark.parametrize("call", [ENTRIES, UPDATE_FILE])
def test_a_record_in_a_notebook_that_was_lost_fails_alone(
    labarchives: FakeLabArchives, context: ExportContext, configure: Callable[..., None], call: str, now: str
) -> None:
    LabArchivesDestination().export(context)
    configure(NX_LABARCHIVES_NOTEBOOK_ID=now)
    if call == ENTRIES:
        context.activities.clear()
    context.xml_file_path.write_bytes(b"<new/>")
    labarchives.replies[call] = Reply(403, "<error><error-code>4509</error-code></error>")
    with pytest.raises(PermanentError, match=r"not let us into the notebook nb1d= .* --recreate$") as caught:
        LabArchivesDestination().export(context)
    assert "check NX_LABARCHIVES_NOTEBOOK_ID" not in str(caught.value)


def test_a_record_in_the_notebook_of_now_stops_the_others_when_that_is_lost(
    labarchives: FakeLabArchives, context: ExportContext
) -> None:
    LabArchivesDestination().export(context)
    context.xml_file_path.write_bytes(b"<new/>")
    labarchives.replies[UPDATE_FILE] = Reply(403, "<error><error-code>4509</error-code></error>")
    with pytest.raises(ConfigurationError, match="check NX_LABARCHIVES_NOTEBOOK_ID"):
        LabArchivesDestination().export(context)


@pytest.mark.parametrize("remembered", ["nb1d=", "nb1d= 2025-01-27 — s"])
def test_the_notebook_is_known_with_and_without_the_name_of_the_page(
    labarchives: FakeLabArchives, context: ExportContext, configure: Callable[..., None], remembered: str
) -> None:
    context.checkpoint.create("page", lambda: "N9", content=remembered)
    configure(NX_LABARCHIVES_NOTEBOOK_ID="another=")
    assert LabArchivesDestination().export(context).metadata["notebook_id"] == "nb1d="


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
        (Reply(413, "<html>Too large"), PermanentError, "larger than LabArchives takes"),
        (Reply(401, "<error><error-code>4514</error-code></error>"), ConfigurationError, "USER_ID"),
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
        (Reply(200, "<html><body>log in</body></html>"), TransientError, "not its own"),
        (
            Reply(
                400, "<entries><request><sig>s</sig></request><error><code>4999</code><msg>no</msg></error></entries>"
            ),
            PermanentError,
            r"It says: 4999 no$",
        ),
        (Reply(200, "<entries><request><tree-id>x</tree-id></request></entries>"), TransientError, "without the id"),
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


@pytest.mark.parametrize("call", [ENTRY, ATTACH])
@pytest.mark.parametrize("status", [401, 403])
def test_content_that_is_refused_although_the_user_is_let_in_is_no_matter_of_configuration(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext, call: str, status: int
) -> None:
    labarchives.replies[call] = Reply(status, "<html>blocked by rule 17</html>")
    with pytest.raises(PermanentError, match=f"lets us in, but refused what .*{status}.*blocked by rule 17"):
        LabArchivesDestination().export(context)
    assert server.calls[-2:] == [call, WHO]
    labarchives.replies[WHO] = Reply(status, "<users><error><error-code>1</error-code></error></users>")
    with pytest.raises(ConfigurationError, match="does not let us in"):
        LabArchivesDestination().export(context)


def test_an_error_that_names_a_setting_needs_no_other_call(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext
) -> None:
    labarchives.replies[ENTRY] = Reply(401, "<error><error-code>4504</error-code></error>")
    with pytest.raises(ConfigurationError, match="clock"):
        LabArchivesDestination().export(context)
    assert server.calls[-1] == ENTRY


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
        ("https://api.labarchives-gov.com", "https://mynotebook.labarchives-gov.com"),
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


def test_an_answer_may_hold_a_text_of_many_megabytes(labarchives: FakeLabArchives, context: ExportContext) -> None:
    LabArchivesDestination().export(context)
    context.activities.clear()
    text = "people's own " * 1_000_000
    entry = f"<entry><eid>E1+/=</eid><part-type>text entry</part-type><entry-data>{text}</entry-data></entry>"
    labarchives.replies[ENTRIES] = Reply(200, f"<tree-tools><entries>{entry}</entries></tree-tools>")
    assert LabArchivesDestination().export(context).metadata["done"] == "updated"  # by a note


def test_an_answer_that_grows_when_it_is_read_is_refused(labarchives: FakeLabArchives, context: ExportContext) -> None:
    entities = "".join(f'<!ENTITY e{number} "{f"&e{number - 1};" * 10}">' for number in range(1, 9))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "0123456789">{entities}]><tree-tools a="&e8;"/>'
    labarchives.replies[LEVEL] = Reply(200, bomb)
    with pytest.raises(TransientError, match="not XML"):
        LabArchivesDestination().export(context)


# --- names and contents


@pytest.mark.parametrize("change", [{"session_identifier": ""}, {"session_identifier": " \n"}, {"instrument_pid": ""}])
@pytest.mark.parametrize("notebook", ["nb1d=", ""])
def test_a_record_without_a_name_is_refused_before_any_call(
    server: FakeServer,
    labarchives: FakeLabArchives,
    context: ExportContext,
    configure: Callable[..., None],
    change: dict[str, Any],
    notebook: str,
) -> None:
    configure(NX_LABARCHIVES_NOTEBOOK_ID=notebook)
    with pytest.raises(PermanentError, match="identifier, by which it is filed"):
        LabArchivesDestination().export(replace(context, **change))
    assert server.calls == []


def test_what_xml_cannot_carry_is_not_sent(
    server: FakeServer, labarchives: FakeLabArchives, context: ExportContext
) -> None:
    LabArchivesDestination().export(replace(context, user="bell \x07, noncharacter \ufffe, end"))
    entry = next(received for received in server.received if received.call == ENTRY)
    (sent,) = parse_qs(entry.body.decode())["entry_data"]
    assert re.search(r"bell .?, noncharacter .?, end", sent)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]", sent)


def test_names_that_fit_stay_as_they_are() -> None:
    for name in ("FEI-Titan-TEM-012345", "Zeiss / Libra 200", "a" * LONGEST_NAME, "مجهر", "🔬 1"):
        assert node_name(name) == name


def test_names_that_do_not_fit_stay_apart() -> None:
    odd = ["a\nb", "a b ", "a\x00b", "a\u202eb", "a" * 10_000, "a" * 10_001, "\x01", "\ud800"]
    names = [node_name(name) for name in odd]
    assert len({*names, "a b", "ab"}) == len(odd) + 2
    assert all(name.isprintable() and 0 < len(name) <= LONGEST_NAME for name in names)


# --- checks


USER = (
    "<users><id>u1d+/=</id><fullname>Jo Smith</fullname><notebooks><notebook><id>nb1d=</id><name>Titan</name>"
    "</notebook></notebooks></users>"
)
SIZE = "<users><max-file-size>262144000</max-file-size></users>"
HOW_LARGE = "GET /api/users/max_file_size"


def level(**can_write: str) -> str:
    nodes = (
        f"<level-node><display-text>{text.replace('_', ' ')}</display-text><is-page>false</is-page>"
        f"<tree-id>t</tree-id><user-access><can-write>{value}</can-write></user-access></level-node>"
        for text, value in can_write.items()
    )
    return f"<tree-tools><level-nodes>{''.join(nodes)}</level-nodes></tree-tools>"


@pytest.fixture
def answers(labarchives: FakeLabArchives) -> dict[str, Reply]:
    labarchives.replies |= {WHO: Reply(200, USER), HOW_LARGE: Reply(200, SIZE)}
    return labarchives.replies


def look(name: str) -> str:
    (check,) = (check for check in LabArchivesDestination().checks() if check.name == name)
    return check.look()


def test_the_checks_come_in_the_order_in_which_they_explain_each_other() -> None:
    checks = LabArchivesDestination().checks()
    names = ["reachable", "clock", "authentication", "notebook", "rights", "upload size"]
    assert [check.name for check in checks] == names
    assert [check.name for check in checks if check.needed] == ["reachable", "authentication"]


def test_checks_only_read(server: FakeServer, answers: dict[str, Reply]) -> None:
    for check in LabArchivesDestination().checks():
        check.look()
    assert set(server.calls) == {WHO, HOW_LARGE, LEVEL}


@pytest.mark.parametrize(
    ("name", "changed", "found"),
    [
        ("reachable", {}, "answers (200)"),
        ("reachable", {WHO: Reply(401, "<error><error-code>4520</error-code></error>")}, "answers (401)"),
        ("clock", {}, "s apart"),
        ("authentication", {}, "acts as Jo Smith"),
        ("authentication", {WHO: Reply(200, "<users><email>a@b.c</email></users>")}, "acts as a@b.c"),
        ("authentication", {WHO: Reply(200, "<users/>")}, "acts as a user without a name"),
        ("notebook", {}, "'Titan' is readable, 0 at its top"),
        ("notebook", {WHO: Reply(200, "<users/>")}, "is readable, though it is not among the user's notebooks"),
        ("rights", {}, "not told by a reading call"),
        ("rights", {LEVEL: Reply(200, level(Other="true"))}, "may write to the notebook"),
        ("rights", {LEVEL: Reply(200, level(Other="false", NexusLIMS_Records="true"))}, "to the folder 'NexusLIMS"),
        ("upload size", {}, "262.1 MB at most"),
    ],
)
def test_a_check_says_what_it_found(
    answers: dict[str, Reply], name: str, changed: dict[str, Reply], found: str
) -> None:
    answers |= changed
    assert found in look(name)


REFUSED = Reply(401, "<error><error-code>4520</error-code></error>")


@pytest.mark.parametrize(
    ("name", "changed", "kind", "said"),
    [
        ("reachable", {WHO: Reply(404, "<html>")}, ConfigurationError, "check NX_LABARCHIVES_URL"),
        ("reachable", {WHO: Reply(200, "<html><p>hello</p></html>")}, ConfigurationError, "There is no LabArchives"),
        ("reachable", {WHO: Reply(503, "<html>down for maintenance")}, TransientError, "down for maintenance"),
        ("authentication", {WHO: REFUSED}, ConfigurationError, "NX_LABARCHIVES_ACCESS_PASSWORD"),
        (
            "authentication",
            {WHO: Reply(401, "<error><error-code>4504</error-code></error>")},
            ConfigurationError,
            "the clock of this machine",
        ),
        ("authentication", {WHO: Reply(200, "<html/>")}, TransientError, "not its own"),
        (
            "notebook",
            {LEVEL: Reply(403, "<tree-tools><error><error-code>4509</error-code></error></tree-tools>")},
            ConfigurationError,
            "NX_LABARCHIVES_NOTEBOOK_ID",
        ),
        ("rights", {LEVEL: Reply(200, level(Other="false"))}, ConfigurationError, "may not write to the notebook"),
        (
            "rights",
            {LEVEL: Reply(200, level(Other="true", NexusLIMS_Records="false"))},
            ConfigurationError,
            "may not write to the folder 'NexusLIMS Records'",
        ),
        ("upload size", {HOW_LARGE: Reply(200, "<users/>")}, TransientError, "did not say how large"),
        ("upload size", {HOW_LARGE: REFUSED}, ConfigurationError, "NX_LABARCHIVES_ACCESS_PASSWORD"),
    ],
)
def test_a_check_says_what_to_mend(
    answers: dict[str, Reply], name: str, changed: dict[str, Reply], kind: type[ExportError], said: str
) -> None:
    answers |= changed
    with pytest.raises(kind, match=said) as caught:
        look(name)
    assert not any(secret in str(caught.value) for secret in ("passw0rd", "u1d", "akid1", "sig="))


def test_a_wrong_clock_is_named_before_the_key_is_doubted(server: FakeServer, answers: dict[str, Reply]) -> None:
    body = b"<error><error-code>4504</error-code></error>"
    head = (
        "HTTP/1.1 401 No\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"  # as the server does after it
    )

    def answer_from_the_past(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head.encode() + body)

    server.answer = lambda _: answer_from_the_past
    assert look("reachable") == "answers (401)"
    with pytest.raises(ConfigurationError, match=r"clock of LabArchives is .* behind ours"):
        look("clock")


def test_without_a_notebook_the_checks_speak_of_the_inbox(
    server: FakeServer, answers: dict[str, Reply], configure: Callable[..., None]
) -> None:
    configure(NX_LABARCHIVES_NOTEBOOK_ID="")
    assert "records go to the user's Inbox" in look("notebook")
    assert "Inbox" in look("rights")
    assert server.calls == []


def test_without_settings_the_checks_name_them(configure: Callable[..., None]) -> None:
    with pytest.raises(ConfigurationError, match="NX_LABARCHIVES_ACCESS_KEY_ID is missing"):
        look("reachable")
