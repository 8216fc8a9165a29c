from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from nexus_tasks.sandbox.services import StandIns, client
from nexus_tasks.sandbox.services.cdcs.service import Cdcs as CdcsService
from nexus_tasks.sandbox.services.server import StandInServer

XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:element name="Experiment"><xs:complexType><xs:sequence>
    <xs:element name="title" type="xs:token"/>
  </xs:sequence></xs:complexType></xs:element>
</xs:schema>"""
VALID = "<Experiment><title>one</title></Experiment>"


class Cdcs:
    """A client with the right token."""

    def __init__(self, url: str, token: str, session: requests.Session) -> None:
        self.url = url
        self.session = session
        session.headers["Authorization"] = f"Token {token}"

    def call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self.session.request(method, f"{self.url}{path}", allow_redirects=False, **arguments)

    def create(self, **changes: Any) -> requests.Response:
        record = {"template": "41", "title": "a title", "xml_content": "<a/>"} | changes
        return self.call("POST", "/rest/data/", json={name: value for name, value in record.items() if value != ...})


@pytest.fixture
def cdcs(stand_ins: StandIns, web: requests.Session) -> Cdcs:
    return Cdcs(stand_ins.cdcs.url, stand_ins.environment()["NX_CDCS_TOKEN"], web)


@pytest.fixture
def validating(tmp_path: Path, web: requests.Session) -> Iterator[Cdcs]:
    (tmp_path / "schema.xsd").write_text(XSD)
    with StandIns.start(xsd=tmp_path / "schema.xsd") as stand_ins:
        yield Cdcs(stand_ins.cdcs.url, stand_ins.environment()["NX_CDCS_TOKEN"], web)


@contextmanager
def site(web: requests.Session, **options: Any) -> Iterator[Cdcs]:
    """One that differs from the usual."""
    server = StandInServer(CdcsService("a-token", **options), 0, "127.0.0.1")
    server.start()
    try:
        yield Cdcs(server.url, "a-token", web)
    finally:
        server.stop()


@pytest.fixture
def administrator(web: requests.Session) -> Iterator[Cdcs]:
    with site(web, administrator=True) as cdcs:
        yield cdcs


@pytest.mark.parametrize("header", [None, "Token wrong", "sandbox-cdcs-token", "Bearer sandbox-cdcs-token"])
def test_a_missing_or_wrong_token_is_403(cdcs: Cdcs, header: str | None) -> None:
    cdcs.session.headers["Authorization"] = header or ""
    if header is None:
        del cdcs.session.headers["Authorization"]
    response = cdcs.create()
    assert response.status_code == 403
    assert "detail" in response.json()


def test_a_record_is_in_its_workspace_at_once(cdcs: Cdcs) -> None:
    response = cdcs.create(workspace=8)
    assert response.status_code == 201
    record = response.json()
    assert isinstance(record["id"], int)
    assert (record["workspace"], record["template"], record["xml_content"]) == (8, 41, "<a/>")


def test_the_same_title_twice_makes_two_records(cdcs: Cdcs) -> None:
    assert cdcs.create().json()["id"] != cdcs.create().json()["id"]


def test_the_ends_of_a_title_are_trimmed(cdcs: Cdcs) -> None:
    assert cdcs.create(title="  a b \n").json()["title"] == "a b"


@pytest.mark.parametrize("title", ["", "  ", "x" * 201, ..., None])
def test_a_bad_title_is_400(cdcs: Cdcs, title: Any) -> None:
    response = cdcs.create(title=title)
    assert response.status_code == 400
    assert "title" in response.json()["message"]


@pytest.mark.parametrize(
    "document",
    ["<a>", "", "no xml", "<a>\x01</a>", "<a>\0</a>", '<?xml version="1.0" encoding="UTF-16"?><a/>', "<a>&x;</a>"],
)
def test_a_document_that_is_not_well_formed_is_500_with_a_message(cdcs: Cdcs, document: str) -> None:
    response = cdcs.create(xml_content=document)
    assert response.status_code == 500
    assert isinstance(response.json()["message"], str)
    assert client.objects(cdcs.url) == []


def test_a_document_that_the_schema_refuses_is_500_with_a_message(validating: Cdcs) -> None:
    assert validating.create(xml_content=VALID).status_code == 201
    response = validating.create(xml_content="<Experiment/>")
    assert response.status_code == 500
    assert "title" in response.json()["message"]
    number = client.objects(validating.url)[0]["id"]
    assert validating.call("PATCH", f"/rest/data/{number}/", json={"xml_content": "<no/>"}).status_code == 500


def test_more_text_than_postgresql_can_index_is_500(cdcs: Cdcs) -> None:
    response = cdcs.create(xml_content=f"<a>{'x' * 1_100_000}</a>")
    assert response.status_code == 500
    assert "tsvector" in response.json()["message"]


@pytest.mark.parametrize("field", ["template", "workspace"])
@pytest.mark.parametrize("value", ["1", 1, "none"])
def test_an_unknown_template_or_workspace_is_400(cdcs: Cdcs, field: str, value: Any) -> None:
    response = cdcs.create(**{field: value})
    assert response.status_code == 400
    assert list(response.json()["message"]) == [field]


def test_a_workspace_without_rights_is_500_and_saves_nothing(cdcs: Cdcs) -> None:
    response = cdcs.create(workspace=3)
    assert response.status_code == 500
    assert "permission to write into this workspace" in response.json()["message"]
    assert client.objects(cdcs.url) == []


def test_without_the_trailing_slash_a_post_becomes_a_list(cdcs: Cdcs) -> None:
    response = cdcs.call("POST", "/rest/data", json={})
    assert response.status_code == 301
    assert response.headers["Location"] == "/rest/data/"
    followed = cdcs.session.post(f"{cdcs.url}/rest/data", json={"template": "41", "title": "t", "xml_content": "<a/>"})
    assert followed.status_code == 200
    assert followed.json()["results"] == []
    assert client.objects(cdcs.url) == []


def test_a_list_by_title_is_exact_newest_first_and_ten_a_page(cdcs: Cdcs) -> None:
    numbers = [cdcs.create(title="T").json()["id"] for _ in range(12)]
    cdcs.create(title="t")
    cdcs.create(title="T2")
    page = cdcs.call("GET", "/rest/data/", params={"title": "T"}).json()
    assert page["count"] == 12
    assert [record["id"] for record in page["results"]] == sorted(numbers, reverse=True)[:10]
    assert page["next"] is not None
    second = cdcs.call("GET", "/rest/data/", params={"title": "T", "page": 2}).json()
    assert [record["id"] for record in second["results"]] == sorted(numbers, reverse=True)[10:]


def test_a_query_for_all_is_a_plain_list(cdcs: Cdcs) -> None:
    number = cdcs.create(title="T").json()["id"]
    cdcs.create(title="other")
    found = cdcs.call("POST", "/rest/data/query/", json={"query": {}, "title": "T", "all": "true"})
    assert [record["id"] for record in found.json()] == [number]


def test_a_record_can_be_read_updated_and_downloaded_byte_for_byte(cdcs: Cdcs) -> None:
    number = cdcs.create().json()["id"]
    document = '<?xml version="1.0" encoding="UTF-8"?>\n<a>µ  \n</a>\n'
    changed = cdcs.call("PATCH", f"/rest/data/{number}/", json={"xml_content": document, "title": "new"})
    assert (changed.status_code, changed.json()["id"], changed.json()["title"]) == (200, number, "new")
    assert cdcs.call("GET", f"/rest/data/download/{number}/").content == document.encode()
    assert cdcs.call("GET", f"/rest/data/{number}/").json()["xml_content"] == document


def test_a_record_that_is_gone_is_404(cdcs: Cdcs) -> None:
    number = cdcs.create().json()["id"]
    assert cdcs.call("DELETE", f"/rest/data/{number}/").status_code == 204
    for method, path in (("GET", ""), ("PATCH", ""), ("GET", "download/")):
        address = f"/rest/data/{path}{number}/"
        assert cdcs.call(method, address, json={"title": "x"}).status_code == 404


def test_assigning_is_repeatable_and_wants_no_trailing_slash(cdcs: Cdcs) -> None:
    number = cdcs.create().json()["id"]
    for _ in range(2):
        response = cdcs.call("PATCH", f"/rest/data/{number}/assign/8")
        assert (response.status_code, response.json()) == (200, {})
    with_slash = cdcs.call("PATCH", f"/rest/data/{number}/assign/8/")
    assert with_slash.status_code == 404
    assert with_slash.headers["Content-Type"].startswith("text/html")
    assert client.objects(cdcs.url)[0]["workspace"] == 8


def test_the_first_workspace_and_the_first_template_are_the_wrong_ones(cdcs: Cdcs) -> None:
    workspaces = cdcs.call("GET", "/rest/workspace/read_access/").json()
    assert workspaces[0]["title"] != "Global Public Workspace"
    assert {"id": 8, "title": "Global Public Workspace"}.items() <= workspaces[1].items()
    managers = cdcs.call("GET", "/rest/template-version-manager/global/").json()
    assert managers[0]["title"] != "Nexus Experiment Schema"


def test_the_template_to_use_is_the_current_version_of_its_manager(cdcs: Cdcs) -> None:
    query = {"title": "Nexus Experiment Schema"}
    (manager,) = cdcs.call("GET", "/rest/template-version-manager/global/", params=query).json()
    assert manager["current"] == "41"
    assert manager["id"] != 41
    template = cdcs.call("GET", f"/rest/template/{manager['current']}/").json()
    assert "<xs:schema" in template["content"]
    assert template["hash"]
    assert cdcs.call("GET", "/rest/template/1/").status_code == 404


def test_what_administrators_may_do_is_403(cdcs: Cdcs) -> None:
    for method, path in (
        ("GET", "/rest/user/"),
        ("POST", "/rest/user/"),
        ("GET", "/rest/admin/data/"),
        ("PATCH", "/rest/data/101/change-owner/1"),
    ):
        response = cdcs.call(method, path, json={"username": "new", "password": "secret"})
        assert (response.status_code, list(response.json())) == (403, ["detail"])


def test_an_administrator_sees_and_makes_users(administrator: Cdcs) -> None:
    before = administrator.call("GET", "/rest/user/").json()
    made = administrator.call("POST", "/rest/user/", json={"username": "jsmith", "password": "secret"})
    assert made.status_code == 201
    assert made.json() == {"id": made.json()["id"], "username": "jsmith", "email": ""}
    assert administrator.call("GET", "/rest/user/").json() == [*before, made.json()]


@pytest.mark.parametrize(
    ("user", "field"),
    [
        ({"username": "nexuslims", "password": "secret"}, "username"),
        ({"username": "John Smith", "password": "secret"}, "username"),
        ({"username": "x" * 151, "password": "secret"}, "username"),
        ({"username": "jsmith"}, "password"),
        ({"password": "secret"}, "username"),
    ],
)
def test_a_user_that_cannot_be_made_is_a_bare_400(administrator: Cdcs, user: dict[str, str], field: str) -> None:
    response = administrator.call("POST", "/rest/user/", json=user)
    assert response.status_code == 400
    assert list(response.json()) == [field]


def test_a_record_that_was_given_away_is_not_among_ones_own(administrator: Cdcs) -> None:
    number = administrator.create(title="T").json()["id"]
    given = administrator.call("PATCH", f"/rest/data/{number}/change-owner/1")
    assert (given.status_code, given.json()) == (200, {})
    assert administrator.call("GET", f"/rest/data/{number}/").json()["user_id"] == "1"
    assert administrator.call("GET", "/rest/data/", params={"title": "T"}).json()["results"] == []
    found = administrator.call("POST", "/rest/data/query/", json={"query": {}, "title": "T", "all": "true"})
    assert [record["id"] for record in found.json()] == [number]
    listed = administrator.call("GET", "/rest/admin/data/", params={"title": "T"})
    assert [record["id"] for record in listed.json()] == [number]
    assert administrator.call("PATCH", f"/rest/data/{number}/", json={"title": "new"}).status_code == 200


@pytest.mark.parametrize("path", ["{id}/change-owner/99", "{id}/change-owner/nobody", "999/change-owner/1"])
def test_an_owner_or_record_that_is_not_there_is_404(administrator: Cdcs, path: str) -> None:
    number = administrator.create().json()["id"]
    response = administrator.call("PATCH", f"/rest/data/{path.format(id=number)}")
    assert (response.status_code, response.json()) == (404, {"message": "Data or user not found."})
    assert administrator.call("PATCH", f"/rest/data/{number}/change-owner/1/").status_code == 404


def test_a_site_may_call_a_document_content_and_pass_the_other_name_over(web: requests.Session) -> None:
    with site(web, document_field="content") as cdcs:
        refused = cdcs.create()
        assert (refused.status_code, list(refused.json()["message"])) == (400, ["content"])
        made = cdcs.create(content="<a/>").json()
        assert "xml_content" not in made
        changed = cdcs.call("PATCH", f"/rest/data/{made['id']}/", json={"xml_content": "<b/>"})
        assert (changed.status_code, changed.json()["content"]) == (200, "<a/>")


def test_rights_to_publish_do_not_show_in_the_list_of_writable_workspaces(cdcs: Cdcs, administrator: Cdcs) -> None:
    assert administrator.call("GET", "/rest/workspace/write_access/").json()[0]["id"] == 8
    administrator.session.headers["Authorization"] = "Token sandbox-cdcs-token"
    assert cdcs.call("GET", "/rest/workspace/write_access/").json() == []
    assert cdcs.create(workspace=8).status_code == 201


def test_a_list_of_workspaces_wants_no_trailing_slash(cdcs: Cdcs) -> None:
    assert cdcs.call("GET", "/rest/workspace/read_access").status_code == 200


def test_it_tells_its_version_and_its_time(cdcs: Cdcs) -> None:
    response = cdcs.call("GET", "/rest/core-settings/")
    assert response.json()["core_version"] == "2.23.0"
    assert abs((parsedate_to_datetime(response.headers["Date"]) - datetime.now(UTC)).total_seconds()) < 5


def test_its_clock_can_be_wrong(web: requests.Session) -> None:
    with site(web, clock_ahead=3600) as cdcs:
        told = parsedate_to_datetime(cdcs.call("GET", "/rest/core-settings/").headers["Date"])
    assert (told - datetime.now(UTC)).total_seconds() > 3500


def test_only_a_template_that_validates_claims_to_be_an_xml_schema(cdcs: Cdcs, validating: Cdcs) -> None:
    assert validating.call("GET", "/rest/template/41/").json()["format"] == "XSD"
    assert cdcs.call("GET", "/rest/template/41/").json()["format"] == "JSON"


def test_the_page_of_a_record_is_200_even_if_there_is_none(cdcs: Cdcs) -> None:
    assert cdcs.call("GET", "/data?id=999").status_code == 200


def test_what_is_sent_cannot_run_on_the_pages(cdcs: Cdcs) -> None:
    script = "<script>alert(1)</script>"
    quoted = script.replace("<", "&lt;")
    document = f'<a pid="{quoted}"><b name="{quoted}">{quoted}</b><c key="{quoted}">{quoted}</c></a>'
    number = cdcs.create(title=script, xml_content=document).json()["id"]
    for path in ("/", f"/data?id={number}"):
        text = cdcs.call("GET", path).text
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)" in text
