import threading
import time
from typing import Any

import pytest
import requests
from lxml import etree

from nexus_tasks.sandbox.services import StandIns, client
from nexus_tasks.sandbox.services.labarchives import Labarchives, signature
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


@pytest.mark.parametrize("seconds", [-119, 0, 60, 119])
def test_a_clock_may_be_two_minutes_off(notebook: Notebook, seconds: int) -> None:
    query = notebook.signed("max_file_size", expires=str(int((time.time() + seconds) * 1000)))
    assert notebook.call("GET", "users/max_file_size", query).status_code == 200


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


def test_a_file_that_is_too_big_is_refused(web: requests.Session) -> None:
    server = StandInServer(Labarchives(ACCOUNT, max_file_size=10))
    server.start()
    try:
        notebook = Notebook(server.url, web)
        assert found(notebook.call("GET", "users/max_file_size"), "max-file-size") == "10"
        response = notebook.call("POST", "entries/add_attachment", {"filename": "f"}, data=b"x" * 11)
        assert etree.fromstring(response.content).findtext("error/code") == "4521"
    finally:
        server.stop()


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


def test_strict_pacing_refuses_bursts_and_lets_serial_calls_in(web: requests.Session) -> None:
    with StandIns.start(strict_pacing=True) as stand_ins:
        url = stand_ins.labarchives.url
        notebook = Notebook(url, web)
        assert [notebook.call("GET", "users/max_file_size").status_code for _ in range(10)] == [200] * 10
        client.set_faults(url, [{"kind": "latency", "seconds": 0.3}])
        statuses: list[int] = []

        def call() -> None:
            with requests.Session() as session:
                statuses.append(Notebook(url, session).call("GET", "users/max_file_size").status_code)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 429, 429]


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
