import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests
from lxml import etree

from nexus_tasks.sandbox.services import StandIns, client
from nexus_tasks.sandbox.services.labarchives.account import signature
from nexus_tasks.sandbox.services.labarchives.pacing import Pacing
from nexus_tasks.sandbox.services.labarchives.service import Labarchives
from nexus_tasks.sandbox.services.labarchives.xml import error_response
from nexus_tasks.sandbox.services.server import StandInServer
from nexus_tasks.sandbox.services.standins import LABARCHIVES_ACCOUNT as ACCOUNT


class Notebook:
    """A client that signs its calls."""

    def __init__(self, url: str, session: requests.Session) -> None:
        self.url = url
        self.session = session

    def signed(self, method: str, **changes: str) -> dict[str, str]:
        expires = changes.get("expires", str(int(time.time() * 1000)))
        sig = signature(ACCOUNT.password, ACCOUNT.akid, method, expires)
        return {"akid": ACCOUNT.akid, "expires": expires, "sig": sig, "uid": ACCOUNT.uid} | changes

    def call(self, verb: str, path: str, query: dict[str, str] | None = None, **arguments: Any) -> requests.Response:
        values = self.signed(path.rpartition("/")[2]) | (query or {})
        return self.session.request(verb, f"{self.url}/api/{path}", params=values, **arguments)

    def node(self, text: str, parent: str = "0", *, folder: bool = False) -> str:
        query = {"nbid": ACCOUNT.nbid, "parent_tree_id": parent, "display_text": text, "is_folder": str(folder).lower()}
        return found(self.call("GET", "tree_tools/insert_node", query), "node/tree-id")

    def level(self, parent: str = "0") -> list[tuple[str, str, str]]:
        answer = self.call("GET", "tree_tools/get_tree_level", {"nbid": ACCOUNT.nbid, "parent_tree_id": parent})
        nodes = etree.fromstring(answer.content).iter("level-node")
        return [tuple(str(node.findtext(name)) for name in ("tree-id", "display-text", "is-page")) for node in nodes]  # type: ignore[misc]

    def entries(self, page: str, data: str = "true") -> list[dict[str, str]]:
        query = {"nbid": ACCOUNT.nbid, "page_tree_id": page, "entry_data": data}
        answer = self.call("GET", "tree_tools/get_entries_for_page", query)
        return [
            {str(child.tag): child.text or "" for child in entry}
            for entry in etree.fromstring(answer.content).iter("entry")
        ]


def found(response: requests.Response, path: str) -> str:
    assert response.status_code == 200, response.text
    return str(etree.fromstring(response.content).findtext(path))


@pytest.fixture
def notebook(stand_ins: StandIns, web: requests.Session) -> Notebook:
    return Notebook(stand_ins.labarchives.url, web)


def test_the_signature_is_that_of_the_documentation() -> None:
    assert signature("1234567890", "0234wedkfjrtfd34er", "entry_attachment", "264433207000") == (
        "mT7pS+KgqlNseR0bo4YLQOVIsgOugMWzlQGllInXS25Q7VpA6lRmL0nUq/UUdrlF+WV7POYE1vcwvN/pnac7bw=="
    )


@pytest.fixture
def start(web: requests.Session) -> Iterator[Callable[..., Notebook]]:
    """A stand-in of its own, made as the test says."""
    servers: list[StandInServer] = []

    def started(**options: Any) -> Notebook:
        servers.append(StandInServer(Labarchives(ACCOUNT, **options)))
        servers[-1].start()
        return Notebook(servers[-1].url, web)

    yield started
    for server in servers:
        server.stop()


@pytest.mark.parametrize(
    ("seconds", "status"), [(-120.001, 401), (-120, 200), (-1, 200), (60, 200), (120, 200), (120.001, 401)]
)
def test_a_clock_may_be_two_minutes_off(start: Callable[..., Notebook], seconds: float, status: int) -> None:
    now = 1_800_000_000
    notebook = start(clock=lambda: now)
    query = notebook.signed("max_file_size", expires=str(round((now + seconds) * 1000)))
    answer = notebook.call("GET", "users/max_file_size", query)
    assert answer.status_code == status
    assert (b"4504" in answer.content) == (status == 401)


def test_each_answer_tells_the_time_by_its_clock(start: Callable[..., Notebook]) -> None:
    for answer in (start(clock=lambda: 1_800_000_000).call("GET", path) for path in ("users/max_file_size", "users/x")):
        assert parsedate_to_datetime(answer.headers["Date"]).timestamp() == 1_800_000_000


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"expires": "264433207000"}, "4504"),
        ({"expires": "soon"}, "4504"),
        ({"expires": "99999999999999"}, "4504"),
        ({"akid": "other"}, "4506"),
        ({"uid": "other"}, "4507"),
        ({"sig": "d3Jvbmc="}, "4520"),
        ({"sig": ""}, "4520"),
        ({"sig": "ä"}, "4520"),
    ],
)
def test_a_call_that_is_not_signed_rightly_is_an_error_at_the_root(
    notebook: Notebook, change: dict[str, str], code: str
) -> None:
    response = notebook.call("GET", "users/max_file_size", change)
    root = etree.fromstring(response.content)
    assert response.status_code == 401
    assert root.tag == "error"
    assert root.findtext("error-code") == code
    assert root.findtext("error-description")


def test_a_signature_holds_for_one_method_only(notebook: Notebook) -> None:
    response = notebook.call("GET", "users/max_file_size", notebook.signed("user_info_via_id"))
    assert b"4520" in response.content


def test_errors_within_a_class_are_nested_and_named_in_two_ways(notebook: Notebook) -> None:
    level = notebook.call("GET", "tree_tools/get_tree_level", {"nbid": "other", "parent_tree_id": "0"})
    assert etree.fromstring(level.content).tag == "tree-tools"
    assert etree.fromstring(level.content).findtext("error/error-code") == "4509"
    entry = notebook.call("POST", "entries/add_entry", {"nbid": "other"})
    assert etree.fromstring(entry.content).tag == "entries"
    assert etree.fromstring(entry.content).findtext("error/code") == "4509"
    assert etree.fromstring(entry.content).findtext("error/msg")
    assert level.status_code != 200 != entry.status_code


@pytest.mark.parametrize(
    ("root", "code_path", "text_path"),
    [
        ("error", "error-code", "error-description"),
        ("tree-tools", "error/error-code", "error/error-description"),
        ("entries", "error/code", "error/msg"),
    ],
)
@pytest.mark.parametrize("code", [4533, 4999])
def test_errors_that_it_never_has_itself_can_be_played(
    notebook: Notebook, code: int, root: str, code_path: str, text_path: str
) -> None:
    body = error_response(root, 500, code, "some words").body.decode()
    client.set_faults(notebook.url, [{"kind": "status", "status": 500, "body": body}])
    answer = notebook.call("GET", "users/max_file_size")
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/xml")
    assert found_in_error(answer, code_path) == str(code)
    assert found_in_error(answer, text_path) == "some words"


def found_in_error(response: requests.Response, path: str) -> str:
    return str(etree.fromstring(response.content).findtext(path))


def test_who_logs_in_learns_their_id(notebook: Notebook) -> None:
    login = {"login_or_email": ACCOUNT.login, "password": ACCOUNT.login_password, "uid": ""}
    answer = notebook.call("GET", "users/user_access_info", login)
    assert found(answer, "id") == ACCOUNT.uid
    assert next(etree.fromstring(answer.content).iter("id")).text == ACCOUNT.uid  # clients take the first
    assert found(answer, "notebooks/notebook/id") == ACCOUNT.nbid
    assert ACCOUNT.login_password.encode() not in answer.content


@pytest.mark.parametrize("change", [{"password": "wrong"}, {"login_or_email": "nobody"}, {"password": ""}])
def test_a_wrong_login_is_refused(notebook: Notebook, change: dict[str, str]) -> None:
    login = {"login_or_email": ACCOUNT.login, "password": ACCOUNT.login_password} | change
    answer = notebook.call("GET", "users/user_access_info", login)
    assert answer.status_code == 401
    assert found_in_error(answer, "error-code") == "4514"


def test_an_answer_repeats_the_request_and_what_signed_it(notebook: Notebook) -> None:
    query = notebook.signed("get_tree_level") | {"nbid": ACCOUNT.nbid, "parent_tree_id": "0"}
    answer = notebook.call("GET", "tree_tools/get_tree_level", query)
    assert found(answer, "request/class") == "tree_tools"
    assert found(answer, "request/method") == "get_tree_level"
    for name in ("akid", "expires", "sig", "uid", "nbid"):
        assert found(answer, f"request/{name}") == query[name]
    refused = notebook.call("GET", "tree_tools/get_tree_level", query | {"nbid": "other"})
    assert found_in_error(refused, "request/sig") == query["sig"]


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "tree_tools/delete_node"),
        ("POST", "entries/delete_entry"),
        ("DELETE", "entries/add_entry"),
        ("DELETE", "entries/entry_attachment"),
    ],
)
def test_there_is_no_call_that_deletes(notebook: Notebook, verb: str, path: str) -> None:
    page = notebook.node("p")
    assert notebook.call(verb, path, {"nbid": ACCOUNT.nbid, "tree_id": page}).status_code == 404
    assert len(client.objects(notebook.url)) == 1


def test_nothing_is_served_without_the_base_path(notebook: Notebook) -> None:
    query = notebook.signed("max_file_size")
    assert notebook.session.get(f"{notebook.url}/users/max_file_size", params=query).status_code == 404


def test_the_same_name_twice_makes_two_nodes(notebook: Notebook) -> None:
    folder = notebook.node("Records", folder=True)
    pages = [notebook.node("page", folder), notebook.node("page", folder)]
    assert notebook.level() == [(folder, "Records", "false")]
    assert notebook.level(folder) == [(page, "page", "true") for page in pages]
    assert pages[0] != pages[1]


def test_a_page_holds_no_nodes_and_a_folder_no_entries(notebook: Notebook) -> None:
    folder, page = notebook.node("f", folder=True), notebook.node("p")
    query = {"nbid": ACCOUNT.nbid, "parent_tree_id": page, "display_text": "x", "is_folder": "true"}
    assert notebook.call("GET", "tree_tools/insert_node", query).status_code == 404
    entry = {"nbid": ACCOUNT.nbid, "pid": folder, "part_type": "text entry", "entry_data": "x"}
    assert notebook.call("POST", "entries/add_entry", entry).status_code == 404


def test_a_node_is_renamed_and_moved(notebook: Notebook) -> None:
    outer, inner, page = notebook.node("outer", folder=True), notebook.node("inner", folder=True), notebook.node("page")
    query = {"nbid": ACCOUNT.nbid}
    notebook.call("GET", "tree_tools/update_node", query | {"tree_id": page, "display_text": "new"})
    notebook.call("GET", "tree_tools/update_node", query | {"tree_id": inner, "parent_tree_id": outer})
    assert notebook.level() == [(outer, "outer", "false"), (page, "new", "true")]
    assert notebook.level(outer) == [(inner, "inner", "false")]
    round_about = query | {"tree_id": outer, "parent_tree_id": inner}
    assert notebook.call("GET", "tree_tools/update_node", round_about).status_code == 400
    assert notebook.call("GET", "tree_tools/update_node", query | {"tree_id": "x"}).status_code == 404


def test_a_level_tells_what_the_user_may_do(notebook: Notebook) -> None:
    notebook.node("folder", folder=True)
    level = notebook.call("GET", "tree_tools/get_tree_level", {"nbid": ACCOUNT.nbid, "parent_tree_id": "0"})
    assert found(level, "level-nodes/level-node/user-access/can-write") == "true"


def test_who_may_only_read_writes_nothing(start: Callable[..., Notebook]) -> None:
    notebook = start(read_only=True)
    values = {"nbid": ACCOUNT.nbid, "parent_tree_id": "0"}
    assert notebook.call("GET", "tree_tools/get_tree_level", values).status_code == 200
    writing = {
        "tree_tools/insert_node": ("GET", values | {"display_text": "x", "is_folder": "true"}),
        "entries/add_entry": ("POST", {"nbid": ACCOUNT.nbid, "pid": "x"}),
        "entries/update_entry": ("POST", {"eid": "x"}),
        "entries/update_attachment": ("POST", {"eid": "x"}),
    }
    for path, (verb, query) in writing.items():
        assert b"4509" in notebook.call(verb, path, query).content
    assert client.objects(notebook.url) == []


@pytest.mark.parametrize("in_query", [{"nbid", "pid", "part_type", "entry_data"}, {"nbid", "pid", "part_type"}, set()])
def test_parameters_may_come_by_query_or_by_form(notebook: Notebook, in_query: set[str]) -> None:
    page = notebook.node("p")
    values = {"nbid": ACCOUNT.nbid, "pid": page, "part_type": "text entry", "entry_data": "<p>a&amp;b</p>"}
    query = {name: value for name, value in values.items() if name in in_query}
    form = {name: value for name, value in values.items() if name not in in_query}
    eid = found(notebook.call("POST", "entries/add_entry", query, data=form), "entry/eid")
    (entry,) = notebook.entries(page)
    assert (entry["eid"], entry["part-type"], entry["entry-data"]) == (eid, "text entry", "<p>a&amp;b</p>")
    assert "entry-data" not in notebook.entries(page, data="false")[0]


def test_an_entry_is_updated_in_place(notebook: Notebook) -> None:
    page = notebook.node("p")
    values = {"nbid": ACCOUNT.nbid, "pid": page, "part_type": "text entry"}
    eid = found(notebook.call("POST", "entries/add_entry", values, data={"entry_data": "old"}), "entry/eid")
    notebook.call("POST", "entries/update_entry", {"eid": eid}, data={"entry_data": "new"})
    assert [entry["entry-data"] for entry in notebook.entries(page)] == ["new"]


def test_an_attachment_is_its_raw_bytes(notebook: Notebook) -> None:
    page, content = notebook.node("p"), b"\x00\xff a=b&c"
    query = {"nbid": ACCOUNT.nbid, "pid": page, "filename": "r.xml", "caption": "the record"}
    eid = found(notebook.call("POST", "entries/add_attachment", query, data=content), "entry/eid")
    (entry,) = notebook.entries(page)
    assert (entry["attach-file-name"], entry["attach-file-size"]) == ("r.xml", str(len(content)))
    assert (entry["caption"], entry["part-type"]) == ("the record", "Attachment")
    assert notebook.call("GET", "entries/entry_attachment", {"eid": eid}).content == content
    changed = notebook.call("POST", "entries/update_attachment", {"eid": eid, "filename": "s.xml"}, data=b"new")
    assert found(changed, "entry/eid") == eid
    assert notebook.call("GET", "entries/entry_attachment", {"eid": eid}).content == b"new"


def test_an_attachment_without_notebook_and_page_goes_to_the_inbox(notebook: Notebook) -> None:
    assert notebook.call("POST", "entries/add_attachment", {"filename": "r.xml"}, data=b"a").status_code == 200
    (entry,) = client.objects(notebook.url)
    assert (entry["path"], entry["page"], entry["filename"]) == ("Inbox", None, "r.xml")
    half = {"filename": "r.xml", "nbid": ACCOUNT.nbid}
    assert notebook.call("POST", "entries/add_attachment", half, data=b"a").status_code == 404


@pytest.mark.parametrize("given", [{}, {"nbid": "", "pid": ""}, {"pid": "x"}])
def test_a_text_without_a_page_does_not_reach_the_inbox(notebook: Notebook, given: dict[str, str]) -> None:
    values = {"part_type": "text entry", "entry_data": "x"} | given
    answer = notebook.call("POST", "entries/add_entry", values)
    assert found_in_error(answer, "error/code") == "4509"
    assert client.objects(notebook.url) == []


def test_a_file_that_is_too_big_is_refused(start: Callable[..., Notebook]) -> None:
    notebook = start(max_file_size=10)
    assert found(notebook.call("GET", "users/max_file_size"), "max-file-size") == "10"
    assert notebook.call("POST", "entries/add_attachment", {"filename": "f"}, data=b"x" * 10).status_code == 200
    response = notebook.call("POST", "entries/add_attachment", {"filename": "f"}, data=b"x" * 11)
    assert found_in_error(response, "error/code") == "4521"


def test_the_user_s_notebooks_are_listed(notebook: Notebook) -> None:
    answer = notebook.call("GET", "users/user_info_via_id")
    assert found(answer, "notebooks/notebook/id") == ACCOUNT.nbid
    assert etree.fromstring(answer.content).tag == "users"


def test_the_order_of_elements_is_not_fixed(notebook: Notebook) -> None:
    orders = set()
    for number in range(20):
        notebook.node(str(number))
    answer = notebook.call("GET", "tree_tools/get_tree_level", {"nbid": ACCOUNT.nbid, "parent_tree_id": "0"})
    for node in etree.fromstring(answer.content).iter("level-node"):
        orders.add(tuple(child.tag for child in node))
    assert len(orders) > 1


def test_identifiers_need_quoting(notebook: Notebook) -> None:
    identifiers = "".join(notebook.node(str(number)) for number in range(6))
    assert "=" in identifiers
    assert set(identifiers) & set("+/")


def test_pacing_by_either_refuses_bursts_and_lets_serial_calls_in(start: Callable[..., Notebook]) -> None:
    notebook = start(pacing=Pacing.EITHER)
    assert [notebook.call("GET", "users/max_file_size").status_code for _ in range(10)] == [200] * 10
    client.set_faults(notebook.url, [{"kind": "latency", "seconds": 0.3}])
    statuses: list[int] = []

    def call() -> None:
        with requests.Session() as session:
            statuses.append(Notebook(notebook.url, session).call("GET", "users/max_file_size").status_code)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 429, 429]


@pytest.mark.parametrize(
    ("pacing", "beside", "seconds", "let_in"),
    [
        (None, 5, 0.0, True),
        (Pacing.SERIAL, 0, 0.0, True),
        (Pacing.SERIAL, 1, 9.0, False),
        (Pacing.INTERVAL, 0, 1.9, False),
        (Pacing.INTERVAL, 5, 2.0, True),
        (Pacing.EITHER, 0, 0.0, True),
        (Pacing.EITHER, 1, 2.0, True),
        (Pacing.EITHER, 1, 1.9, False),
    ],
)
def test_each_pacing_refuses_its_own_calls(pacing: Pacing | None, beside: int, seconds: float, let_in: bool) -> None:
    refusal = Labarchives(ACCOUNT, pacing=pacing, interval=2.0).admit(beside, seconds)
    assert (refusal is None) == let_in
    assert refusal is None or refusal.status == 429


def test_serial_pacing_refuses_calls_beside_another(start: Callable[..., Notebook]) -> None:
    notebook = start(pacing=Pacing.SERIAL)
    assert [notebook.call("GET", "users/max_file_size").status_code for _ in range(5)] == [200] * 5
    client.set_faults(notebook.url, [{"kind": "hang", "times": 1}])
    with requests.Session() as session:
        hanging = threading.Thread(target=quietly, args=(Notebook(notebook.url, session),))
        hanging.start()
        deadline = time.monotonic() + 10
        while client.calls(notebook.url)["in_progress"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert notebook.call("GET", "users/max_file_size").status_code == 429
        client.reset(notebook.url)  # lets it go
        hanging.join()
    assert notebook.call("GET", "users/max_file_size").status_code == 200


def quietly(notebook: Notebook) -> None:
    with suppress(requests.RequestException):
        notebook.call("GET", "users/max_file_size")


def test_interval_pacing_refuses_a_call_that_comes_too_soon(start: Callable[..., Notebook]) -> None:
    notebook = start(pacing=Pacing.INTERVAL, interval=600.0)
    assert [notebook.call("GET", "users/max_file_size").status_code for _ in range(2)] == [200, 429]
    notebook = start(pacing=Pacing.INTERVAL, interval=0.0)
    assert [notebook.call("GET", "users/max_file_size").status_code for _ in range(2)] == [200, 200]


def test_what_is_sent_cannot_run_on_the_page(notebook: Notebook) -> None:
    script = "<script>alert(1)</script>"
    page = notebook.node(script, notebook.node(script, folder=True))
    values = {"nbid": ACCOUNT.nbid, "pid": page}
    notebook.call("POST", "entries/add_entry", values | {"part_type": "text entry"}, data={"entry_data": script})
    notebook.call("POST", "entries/add_attachment", values | {"filename": script, "caption": script}, data=b"x")
    text = notebook.session.get(f"{notebook.url}/").text
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 4


def test_the_fragment_of_a_page_s_link_is_an_anchor(notebook: Notebook) -> None:
    page = notebook.node("p")
    assert f'id="/{ACCOUNT.nbid}/{page}"' in notebook.session.get(f"{notebook.url}/").text


def test_the_first_page_shows_what_lies_where(notebook: Notebook) -> None:
    page = notebook.node("the page", notebook.node("the folder", folder=True))
    values = {"nbid": ACCOUNT.nbid, "pid": page}
    notebook.call("POST", "entries/add_entry", values | {"part_type": "text entry"}, data={"entry_data": "a text"})
    for place in (values, {}):
        query = place | {"filename": "record.xml", "caption": "the record"}
        notebook.call("POST", "entries/add_attachment", query, data=b"x")
    text = notebook.session.get(f"{notebook.url}/").text
    assert "1 page with 1 text and 1 file" in text
    for part in ("the folder", "the page", "a text", "the record", "1 bytes"):
        assert part in text
    article, contents = text.split("</article>")
    inbox = contents.partition("Inbox")[2]
    assert "record.xml" in article
    assert "record.xml" in inbox


def test_an_empty_notebook_says_so(notebook: Notebook) -> None:
    text = notebook.session.get(f"{notebook.url}/").text
    assert "No page has arrived yet." in text
    assert "Nothing has come to the Inbox." in text
