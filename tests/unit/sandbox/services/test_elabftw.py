import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from nexus_tasks.sandbox.services import StandIns, client
from nexus_tasks.sandbox.services.elabftw.installation import READ_ONLY_API_KEY
from nexus_tasks.sandbox.services.elabftw.search import like
from nexus_tasks.sandbox.services.elabftw.service import Elabftw
from nexus_tasks.sandbox.services.server import StandInServer
from nexus_tasks.sandbox.services.standins import ELABFTW_API_KEY


class Elab:
    """A client with the right key."""

    def __init__(self, url: str, session: requests.Session) -> None:
        self.url = url
        self.session = session
        session.headers["Authorization"] = ELABFTW_API_KEY

    def call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self.session.request(method, f"{self.url}/api/v2/{path}", allow_redirects=False, **arguments)

    def create(self, **values: Any) -> int:
        response = self.call("POST", "experiments", json=values)
        assert response.status_code == 201
        return int(response.headers["Location"].rpartition("/")[2])

    def read(self, number: int) -> dict[str, Any]:
        return dict(self.call("GET", f"experiments/{number}").json())

    def search(self, value: str, **more: Any) -> list[int]:
        query = {"extended": f'extrafield:s:"Session ID":"{value}"', "scope": 3, "state": "1,2", "limit": 50} | more
        return [each["id"] for each in self.call("GET", "experiments", params=query).json()]


@pytest.fixture
def elab(stand_ins: StandIns, web: requests.Session) -> Elab:
    return Elab(stand_ins.elabftw.url, web)


@contextmanager
def serving(service: Elabftw, web: requests.Session) -> Iterator[Elab]:
    """A client of another eLabFTW than that of `elab`."""
    server = StandInServer(service)
    server.start()
    try:
        yield Elab(server.url, web)
    finally:
        server.stop()


def session_field(value: str) -> dict[str, Any]:
    return {"extra_fields": {"Session ID": {"type": "text", "value": value}}}


@pytest.mark.parametrize("header", [None, "7-wrong", "Bearer 7-sandbox-elabftw-key", "Token 7-sandbox-elabftw-key"])
def test_a_missing_or_wrong_key_is_401(elab: Elab, header: str | None) -> None:
    elab.session.headers["Authorization"] = header or ""
    if header is None:
        del elab.session.headers["Authorization"]
    response = elab.call("GET", "info")
    assert response.status_code == 401
    assert response.json()["code"] == 401
    assert set(response.json()) == {"code", "message", "description"}


def test_no_key_is_403_in_release_5_2(web: requests.Session) -> None:
    with StandIns.start(elabftw_version=50205) as stand_ins:
        assert web.get(f"{stand_ins.elabftw.url}/api/v2/info").status_code == 403


def test_info_gives_the_version_as_a_number(elab: Elab) -> None:
    info = elab.call("GET", "info").json()
    assert info["elabftw_version_int"] == 50311
    assert info["elabftw_version"] == "5.3.11"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/json", "", None])
def test_the_content_type_must_be_exactly_json(elab: Elab, content_type: str | None) -> None:
    number = elab.create()
    headers = {"Content-Type": content_type}
    for method, path in (
        ("POST", "experiments"),
        ("PATCH", f"experiments/{number}"),
        ("POST", f"experiments/{number}/tags"),
    ):
        assert elab.call(method, path, data=b'{"tag": "a"}', headers=headers).status_code == 400


def test_the_answer_to_a_post_is_empty_and_its_location_names_another_host(elab: Elab) -> None:
    response = elab.call("POST", "experiments", json={"title": "t"})
    assert (response.status_code, response.content) == (201, b"")
    assert not response.headers["Location"].startswith(elab.url)
    assert elab.read(int(response.headers["Location"].rpartition("/")[2]))["title"] == "t"


def test_a_post_takes_everything_but_some_fields(elab: Elab) -> None:
    metadata = session_field("s")
    number = elab.create(
        title="t", body="<p>b</p>", tags=["a", "b"], category=2, status=3, metadata=metadata, rating=5, custom_id=9
    )
    experiment = elab.read(number)
    assert (experiment["title"], experiment["body"], experiment["tags"]) == ("t", "<p>b</p>", "a|b")
    assert (experiment["category"], experiment["status"]) == (2, 3)
    assert (experiment["rating"], experiment["custom_id"]) == (0, None)
    assert experiment["metadata_decoded"] == metadata


def test_an_older_release_takes_body_and_metadata_by_patch_only(web: requests.Session) -> None:
    with StandIns.start(elabftw_version=50100) as stand_ins:
        elab = Elab(stand_ins.elabftw.url, web)
        number = elab.create(title="t", body="b", metadata={})
        assert (elab.read(number)["body"], elab.read(number)["metadata"]) == ("", None)


def test_metadata_is_an_object_for_post_and_a_string_for_patch_and_get(elab: Elab) -> None:
    metadata = session_field("s")
    assert elab.call("POST", "experiments", json={"metadata": json.dumps(metadata)}).status_code == 400
    number = elab.create()
    assert elab.call("PATCH", f"experiments/{number}", json={"metadata": metadata}).status_code == 400
    assert elab.call("PATCH", f"experiments/{number}", json={"metadata": "no json"}).status_code == 400
    assert elab.call("PATCH", f"experiments/{number}", json={"metadata": json.dumps(metadata)}).status_code == 200
    assert json.loads(elab.read(number)["metadata"]) == metadata


def test_the_order_of_metadata_keys_is_not_kept(elab: Elab) -> None:
    number = elab.create(metadata={"zz": 1, "b": 2, "aaa": 3})
    assert list(json.loads(elab.read(number)["metadata"])) == ["b", "zz", "aaa"]


def test_tags_are_added_one_by_one_and_not_by_patch(elab: Elab) -> None:
    number = elab.create(tags=["a"])
    assert elab.call("PATCH", f"experiments/{number}", json={"tags": ["x"]}).status_code == 200
    assert elab.call("POST", f"experiments/{number}/tags", json={"tag": "b|c"}).status_code == 201
    assert elab.read(number)["tags"] == "a|b c"


def test_a_refused_tag_leaves_the_experiment_behind(elab: Elab) -> None:
    assert elab.call("POST", "experiments", json={"title": "t", "tags": ["a", " "]}).status_code == 400
    assert [each["title"] for each in client.objects(elab.url)] == ["t"]


def test_a_team_may_make_experiments_from_templates_only(web: requests.Session) -> None:
    with serving(Elabftw(ELABFTW_API_KEY, force_exp_tpl=True), web) as elab:
        assert elab.call("GET", "teams/current").json()["force_exp_tpl"] == 1
        assert elab.call("POST", "experiments", json={"title": "t"}).status_code == 400
        assert client.objects(elab.url) == []


def test_a_team_may_keep_its_users_from_making_tags(web: requests.Session) -> None:
    with serving(Elabftw(ELABFTW_API_KEY, user_create_tag=False), web) as elab:
        assert elab.call("GET", "teams/current").json()["user_create_tag"] == 0
        refused = elab.call("POST", "experiments", json={"title": "t", "tags": ["a"]})
        assert (refused.status_code, refused.json()["description"]) == (400, "Users cannot create tags.")
        assert [(each["title"], each["tags"]) for each in client.objects(elab.url)] == [("t", [])]


def test_a_search_is_a_like_that_ignores_case(elab: Elab) -> None:
    numbers = [elab.create(metadata=session_field(value)) for value in ("ab_1", "AB_1", "abx1", "ab_12")]
    assert elab.search("ab_1") == [numbers[2], numbers[1], numbers[0]]
    assert elab.search("ab%") == numbers[::-1]
    assert elab.search("ab") == []


def test_a_search_sees_the_states_it_asks_for(elab: Elab) -> None:
    number = elab.create(metadata=session_field("s"))
    elab.call("PATCH", f"experiments/{number}", json={"state": 2})
    assert elab.search("s") == [number]
    assert elab.search("s", state="1") == []
    deleted = elab.create(metadata=session_field("s"))
    elab.call("DELETE", f"experiments/{deleted}")
    assert elab.search("s") == [number]


def test_a_list_is_short_unless_a_limit_is_sent(elab: Elab) -> None:
    for _ in range(20):
        elab.create(metadata=session_field("s"))
    assert len(elab.call("GET", "experiments").json()) == 15
    assert len(elab.search("s")) == 20
    assert len(elab.search("s", limit=3)) == 3


def test_a_search_that_cannot_be_understood_is_400(elab: Elab) -> None:
    query = {"extended": 'extrafield:s:"Session ID":"a"b"'}
    assert elab.call("GET", "experiments", params=query).status_code == 400


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [("a%", "ABC", True), ("a_c", "abc", True), (r"a\_c", "abc", False), (r"a\_c", "a_c", True), ("a.c", "abc", False)],
)
def test_like_is_that_of_mysql(pattern: str, text: str, *, fits: bool) -> None:
    assert (like(pattern).fullmatch(text) is not None) == fits


def test_a_title_is_one_line_of_255_characters(elab: Elab) -> None:
    number = elab.create(title="a\nb\r\n" + "x" * 300)
    assert elab.read(number)["title"] == "a b " + "x" * 251
    assert elab.read(elab.create())["title"] == "Untitled"


def test_a_body_that_is_too_big_is_400(elab: Elab) -> None:
    assert elab.call("POST", "experiments", json={"body": "x" * 4_120_001}).status_code == 400
    assert client.objects(elab.url) == []


def test_a_body_is_purified(elab: Elab) -> None:
    image, run = '<img src="data:image/png;base64,AA==">', "javascript:x()"
    body = f'<p onclick="x()">a<script>x()</script>{image}<a href="{run}">b</a><br/></p>'
    assert elab.read(elab.create(body=body))["body"] == "<p>a<a>b</a><br></p>"


def test_uploads_have_their_name_hash_and_size(elab: Elab) -> None:
    number = elab.create()
    content = b"\r\n--\x00\xff<xml/>\r\n"
    response = elab.call(
        "POST", f"experiments/{number}/uploads", files={"file": ("réc.xml", content)}, data={"comment": "c"}
    )
    assert (response.status_code, response.content) == (201, b"")
    (upload,) = elab.call("GET", f"experiments/{number}/uploads").json()
    assert str(upload["id"]) == response.headers["Location"].rpartition("/")[2]
    assert (upload["real_name"], upload["comment"]) == ("réc.xml", "c")
    assert (upload["hash"], upload["filesize"]) == (hashlib.sha256(content).hexdigest(), len(content))
    binary = elab.call("GET", f"experiments/{number}/uploads/{upload['id']}", params={"format": "binary"})
    assert binary.content == content


def test_the_same_file_twice_is_there_twice(elab: Elab) -> None:
    number = elab.create()
    for _ in range(2):
        elab.call("POST", f"experiments/{number}/uploads", files={"file": ("a.xml", b"a")})
    assert len(elab.call("GET", f"experiments/{number}/uploads").json()) == 2


def test_a_replaced_upload_is_archived(elab: Elab) -> None:
    number = elab.create()
    first = elab.call("POST", f"experiments/{number}/uploads", files={"file": ("a.xml", b"old")})
    upload = first.headers["Location"].rpartition("/")[2]
    replaced = elab.call("POST", f"experiments/{number}/uploads/{upload}", files={"file": ("a.xml", b"new")})
    assert replaced.status_code == 201
    (now,) = elab.call("GET", f"experiments/{number}/uploads").json()
    assert now["hash"] == hashlib.sha256(b"new").hexdigest()
    archived = elab.call("GET", f"experiments/{number}/uploads", params={"state": "2"}).json()
    assert [str(each["id"]) for each in archived] == [upload]


def test_an_upload_that_is_no_form_is_400(elab: Elab) -> None:
    number = elab.create()
    assert elab.call("POST", f"experiments/{number}/uploads", data=b"raw").status_code == 400
    assert elab.call("POST", f"experiments/{number}/uploads", files={"other": b"x"}).status_code == 400


def test_what_is_missing_is_404_and_what_is_deleted_or_archived_422(elab: Elab) -> None:
    assert elab.call("PATCH", "experiments/1", json={}).status_code == 404
    for state in (2, 3):
        number = elab.create()
        elab.call("PATCH", f"experiments/{number}", json={"state": state})
        assert elab.call("PATCH", f"experiments/{number}", json={"title": "x"}).status_code == 422
        assert elab.call("POST", f"experiments/{number}/uploads", files={"file": ("a", b"a")}).status_code == 422


def test_what_is_sent_cannot_run_on_the_pages(elab: Elab) -> None:
    script = "<script>alert(1)</script>"
    number = elab.create(title=script, tags=[script], body=f"<p>{script}</p>", metadata=session_field(script))
    elab.call("POST", f"experiments/{number}/uploads", files={"file": ("<script>.xml", b"a")}, data={"comment": script})
    for address in ("/", f"/experiments.php?mode=view&id={number}"):
        page = elab.session.get(elab.url + address)
        assert page.status_code == 200
        assert "<script" not in page.text
        assert "script" in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_the_page_of_an_experiment_shows_fields_and_files_and_frames_the_body(elab: Elab) -> None:
    number = elab.create(title="t", body="<p>body text</p>", metadata=session_field("the session"))
    elab.call("POST", f"experiments/{number}/uploads", files={"file": ("record.xml", b"<a/>")})
    text = elab.session.get(f"{elab.url}/experiments.php?mode=view&id={number}").text
    for part in ("Session ID", "the session", "record.xml", "<iframe srcdoc=", "sandbox=", "body text"):
        assert part in text
    (upload,) = elab.call("GET", f"experiments/{number}/uploads").json()
    assert elab.session.get(f"{elab.url}/app/download.php?id={upload['id']}").content == b"<a/>"


def attached(elab: Elab, number: int, content: bytes, instead_of: int | None = None) -> int:
    path = f"experiments/{number}/uploads" + (f"/{instead_of}" if instead_of else "")
    response = elab.call("POST", path, files={"file": ("a.xml", content)}, data={"comment": "c"})
    assert response.status_code == 201
    return int(response.headers["Location"].rpartition("/")[2])


def test_a_replacement_has_no_comment(elab: Elab) -> None:
    number = elab.create()
    first = attached(elab, number, b"old")
    second = attached(elab, number, b"new", instead_of=first)
    read = elab.call("GET", f"experiments/{number}/uploads/{second}").json()
    assert (read["comment"], read["state"]) == (None, 1)


def test_replacing_what_was_archived_brings_it_back(elab: Elab) -> None:
    number = elab.create()
    first = attached(elab, number, b"1")
    others = [attached(elab, number, content, instead_of=first) for content in (b"2", b"3")]
    current = [each["id"] for each in elab.call("GET", f"experiments/{number}/uploads").json()]
    assert current == [*others[::-1], first]


def test_a_deleted_upload_is_not_listed_but_can_be_read_and_replaced(elab: Elab) -> None:
    number = elab.create()
    first = attached(elab, number, b"old")
    assert elab.call("DELETE", f"experiments/{number}/uploads/{first}").status_code == 204
    assert elab.call("GET", f"experiments/{number}/uploads").json() == []
    assert elab.call("GET", f"experiments/{number}/uploads/{first}").json()["state"] == 3
    attached(elab, number, b"new", instead_of=first)
    assert elab.call("GET", f"experiments/{number}/uploads/{first}").json()["state"] == 2
    assert elab.session.get(f"{elab.url}/app/download.php?id={first}").status_code == 200


def test_an_experiment_goes_with_its_uploads(elab: Elab) -> None:
    number = elab.create()
    attached(elab, number, b"a")
    elab.call("DELETE", f"experiments/{number}")
    assert elab.call("GET", f"experiments/{number}/uploads").json() == []
    assert elab.read(number)["state"] == 3


def test_a_locked_experiment_is_read_and_refused_with_401_until_it_is_unlocked(elab: Elab) -> None:
    number = elab.create()
    for status in (401, 200):
        elab.call("PATCH", f"experiments/{number}", json={"action": "lock"})
        assert elab.call("PATCH", f"experiments/{number}", json={"title": "x"}).status_code == status
        assert elab.read(number)["locked"] == int(status == 401)


def test_a_read_only_key_reads_and_is_refused_with_400_elsewhere(elab: Elab) -> None:
    number = elab.create()
    elab.session.headers["Authorization"] = READ_ONLY_API_KEY
    assert elab.read(number)["id"] == number
    for method, path in (("POST", "experiments"), ("PATCH", f"experiments/{number}")):
        response = elab.call(method, path, json={"title": "x"})
        assert response.status_code == 400
        assert "read-only key" in response.json()["description"]
    assert elab.call("DELETE", f"experiments/{number}").status_code == 400
    assert elab.read(number)["title"] == "Untitled"


def test_user_keys_categories_and_status_are_told(elab: Elab) -> None:
    user = elab.call("GET", "users/me").json()
    assert (user["fullname"], user["team"], user["teams"][0]["name"]) == ("Sandbox User", 1, "Sandbox team")
    keys = {each["id"]: each["can_write"] for each in elab.call("GET", "apikeys").json()}
    assert keys == {7: 1, 8: 0}
    for kind, titles in (
        ("experiments_categories", ["Imaging", "Spectroscopy", "Diffraction"]),
        ("experiments_status", ["Running", "Success", "Need to be redone", "Fail"]),
    ):
        for team in ("current", "1"):
            listed = elab.call("GET", f"teams/{team}/{kind}").json()
            assert [each["title"] for each in listed] == titles


def test_an_unknown_status_is_refused_by_the_database_and_an_unknown_category_is_kept(elab: Elab) -> None:
    response = elab.call("POST", "experiments", json={"status": 99})
    assert (response.status_code, response.json()["code"]) == (500, 500)
    assert "foreign key constraint" in response.json()["description"]
    assert client.objects(elab.url) == []
    assert elab.read(elab.create(category=99))["category"] == 99


def test_a_tag_that_is_too_long_is_refused_by_the_database(elab: Elab) -> None:
    number = elab.create()
    for length, status in ((255, 201), (256, 500)):
        assert elab.call("POST", f"experiments/{number}/tags", json={"tag": "x" * length}).status_code == status


def test_half_a_character_is_no_json(elab: Elab) -> None:
    response = elab.call(
        "POST", "experiments", data=b'{"title": "\\ud83d"}', headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    assert client.objects(elab.url) == []


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("<section><h1 id='x' style='color: red'>a</h1></section>", '<h1 style="color: red">a</h1>'),
        ("a<form><button>b</button></form><!-- c -->d", "abd"),
        ('<a href="https://x.org" onclick="x()">a</a>', None),
        ('<a href=" java\tscript:x()">a</a><a href="/app">b</a>', '<a>a</a><a href="/app">b</a>'),
        ("<figure><img src='x.png' alt='y'><figcaption>c</figcaption></figure>", None),
        ("a\x07b\x00c\x9fd", "abcd"),
        ("&#x27;&quot;&lt;", "'\"&lt;"),
    ],
)
def test_a_body_keeps_only_what_is_allowed(elab: Elab, sent: str, kept: str | None) -> None:
    expected = (
        kept
        or {
            "<a": '<a href="https://x.org" target="_blank" rel="noreferrer noopener">a</a>',
            "<f": '<figure><img src="x.png"><figcaption>c</figcaption></figure>',
        }[sent[:2]]
    )
    assert elab.read(elab.create(body=sent))["body"] == expected


def test_a_download_bears_its_name_for_old_and_new_clients(elab: Elab) -> None:
    number = elab.create()
    elab.call("POST", f"experiments/{number}/uploads", files={"file": ("réc.xml", b"<a/>")})
    upload = elab.read(number)["uploads"][0]["id"]
    binary = elab.call("GET", f"experiments/{number}/uploads/{upload}", params={"format": "binary"})
    assert binary.headers["Content-Disposition"] == "inline; filename=r_c.xml; filename*=utf-8''r%C3%A9c.xml"
    page = elab.session.get(f"{elab.url}/app/download.php?id={upload}")
    assert page.headers["Content-Disposition"].startswith("attachment; ")
