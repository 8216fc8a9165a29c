import json
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

import pytest
import requests
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from nexus_tasks.exporters import http_body
from nexus_tasks.exporters.http_body import address, encoded, form_body, json_body, multipart_body, quoted
from nexus_tasks.exporters.labarchives import api as labarchives_api
from nexus_tasks.exporters.labarchives.api import EntryText

any_text = st.text(st.characters(exclude_categories=["Cs"]))  # half pairs cannot be sent
addresses = st.builds(
    "{}://{}{}/".format,
    st.sampled_from(["http", "https", "HTTPS"]),
    st.sampled_from(["cdcs.example.org", "127.0.0.1:8080", "[::1]:81", "größe.example", "CDCS.Example.org:443"]),
    st.sampled_from(["", "/api", "/a b/ä", "/%7euser"]),
)


@examples(max_examples=300, derandomize=True)
@given(st.dictionaries(any_text, any_text, max_size=4))
@example({"entry_data": "".join(map(chr, range(0x250)))})
@example({"entry_data": "%25 +&=~"})
def test_forms_are_encoded_as_the_standard_library_encodes_them(fields: dict[str, str]) -> None:
    assert encoded(fields) == urlencode(fields).encode("ascii")


@given(st.lists(any_text))
def test_a_text_may_be_quoted_in_parts(parts: list[str]) -> None:
    assert b"".join(map(quoted, parts)) == quoted("".join(parts))
    text = EntryText(*parts)
    assert text.form.sent() == form_body({"entry_data": "".join(parts)}).sent()
    assert text.size == len("".join(parts).encode())


def test_half_a_character_cannot_be_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        quoted("\ud800")


def prepared(method: str = "POST", url: str = "http://h/", **given: object) -> requests.PreparedRequest:
    return requests.Request(method, url, **given).prepare()


@examples(derandomize=True)
@given(addresses, st.text(alphabet="aZ09_-/.?#%~ äé{}|\"<>'&=+", max_size=30))
@example("http://h/", "rest/data/303/")
@example("http://h/", "/api/v2/../v1/./x")
def test_addresses_are_those_of_requests(base: str, path: str) -> None:
    assert address(base, path) == prepared(url=base + path.lstrip("/")).url


@pytest.mark.parametrize("base", ["http:///", "nonsense/"])
def test_what_is_no_address_is_refused_every_time(base: str) -> None:
    for _ in range(2):
        with pytest.raises(requests.RequestException):
            address(base, "rest/data/")


def test_json_is_that_of_requests() -> None:
    document = {"title": "Größe 🔬", "none": None, "list": [1, 2.5, "\0"]}
    body, theirs = json_body(document), prepared(json=document)
    assert body.sent() == theirs.body
    assert body.content_type == theirs.headers["Content-Type"]
    assert len(body) == int(theirs.headers["Content-Length"])
    assert json.loads(b"".join(body.parts)) == document
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_body({"a": float("nan")})


@given(any_text)
@example("x" * 1_999_999 + '🔬\n"é')
def test_a_long_text_in_json_is_that_of_requests(text: str) -> None:
    for document in ({}, {"title": "t", "workspace": None}):
        theirs = prepared(json=document | {"xml_content": text}).body
        assert b"".join(json_body(document, xml_content=text.encode()).parts) == theirs


def test_what_is_not_utf_8_is_no_text() -> None:
    for content in (b"\xff", b"a\xc3"):
        with pytest.raises(UnicodeDecodeError):
            json_body({}, a=content)


def test_a_large_body_is_sent_in_its_parts() -> None:
    file = b"x" * 3_000_000
    assert any(part is file for part in multipart_body({}, {"file": ("r.xml", file, "application/xml")}).sent())
    small = json_body({}, a=b"b")
    assert isinstance(small.sent(), bytes)
    assert len(small) == len(small.sent())


def test_a_form_with_a_file_is_that_of_requests() -> None:
    fields = {"comment": "NexusLIMS record – XML"}
    files = {"file": ("Größe.xml", b"\0<r/>\r\n", "application/xml")}
    body = multipart_body(fields, files)
    assert body.content_type is not None
    boundary = body.content_type.partition("boundary=")[2].encode()
    theirs = prepared(data=fields, files=files)
    assert isinstance(theirs.body, bytes)
    their_boundary = theirs.headers["Content-Type"].partition("boundary=")[2].encode()
    assert body.sent() == theirs.body.replace(their_boundary, boundary)


def test_a_text_entry_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def counting(function: Callable[[str], bytes]) -> Callable[[str], bytes]:
        def count(text: str) -> bytes:
            passes.append(len(text))
            return function(text)

        return count

    monkeypatch.setattr(labarchives_api, "quoted", counting(quoted))
    monkeypatch.setattr(http_body, "quoted", counting(quoted))

    class Session:
        """Stands where the calls would be made."""

        def call(self, method: str, path: str, *, params: Callable[[], Mapping[str, str]], **given: object) -> None:
            del method, path, given
            encoded(params())
            raise RuntimeError

    text = EntryText("<p>", "x" * 100_000)
    api = labarchives_api.LabArchivesApi("http://h", labarchives_api.Account("a", "p", "u"))
    api._session = Session()  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(RuntimeError):
            api.add_text_entry("n", "p", text)
    assert [size for size in passes if size >= 100_000] == [100_000]
