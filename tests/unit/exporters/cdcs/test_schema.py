import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nexus_tasks.exporters.cdcs import schema as module
from nexus_tasks.exporters.cdcs.schema import Schema, schema_of

XSI = "http://www.w3.org/2001/XMLSchema-instance"


def xsd(body: str) -> str:
    return f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">{body}</xs:schema>'


NUMBER = Schema(xsd('<xs:element name="number" type="xs:int"/>'))
NUMBERS = Schema(
    xsd(
        '<xs:element name="numbers"><xs:complexType><xs:sequence>'
        '<xs:element name="number" type="xs:int" maxOccurs="unbounded"/>'
        "</xs:sequence></xs:complexType></xs:element>"
    )
)


@pytest.mark.parametrize(
    "document",
    [
        "<number>5</number>",
        '<?xml version="1.0" encoding="UTF-8"?>\n<number> 5\n</number>\n',
        '<!DOCTYPE number [<!ENTITY five "5">]><number>&five;</number>',  # not judged: entities are not resolved
    ],
)
def test_a_valid_document_has_no_errors(document: str) -> None:
    assert NUMBER.errors_in(document.encode()) is None


@pytest.mark.parametrize(
    ("document", "errors"),
    [
        ("<number>five</number>", "line 1: Element 'number': 'five' is not a valid value of the atomic type 'xs:int'"),
        ("\n<a xmlns='urn:a'/>", "line 2: Element 'a': No matching global declaration available"),
        ("<number>", "line 1: Premature end of data"),
        ("", "line 1: Document is empty"),
        ('<?xml version="1.0" encoding="UTF-16"?><number>5</number>', "line 1: "),
    ],
)
def test_an_invalid_document_is_told_by_line_and_reason(document: str, errors: str) -> None:
    assert (NUMBER.errors_in(document.encode()) or "").startswith(errors)


def test_of_many_errors_the_first_are_named() -> None:
    document = "<numbers>\n" + "<number>x</number>\n" * 5 + "</numbers>"
    errors = NUMBERS.errors_in(document.encode()) or ""
    assert [part.split(":")[0] for part in errors.split("; ")] == ["line 2", "line 3", "line 4", "and 2 more"]


def test_a_long_error_is_cut() -> None:
    assert len(NUMBER.errors_in(f"<number>{'x' * 9_000}</number>".encode()) or "") < 250


def test_a_document_cannot_bring_a_schema_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = xsd('<xs:element name="own" type="xs:string"/>')
    (tmp_path / "own.xsd").write_text(own.replace("<xs:schema", '<xs:schema targetNamespace="urn:own"', 1))
    hint = f'xmlns:xsi="{XSI}" xsi:schemaLocation="urn:own {tmp_path / "own.xsd"}"'
    assert NUMBER.errors_in(f'<own xmlns="urn:own" {hint}>x</own>'.encode()) is not None
    assert NUMBER.errors_in(f"<number {hint}>5</number>".encode()) is None
    monkeypatch.setattr(module, "LARGE", 0)
    assert NUMBER.errors_in(f'<own xmlns="urn:own" {hint}>x</own>'.encode()) is not None
    assert NUMBER.errors_in(f"<number {hint}>5</number>".encode()) is None
    assert NUMBER.errors_in(b'<own xmlns="urn:own">x</own>') is not None


@pytest.mark.parametrize("how", ["include", 'import namespace="urn:other"', "redefine"])
def test_a_schema_that_needs_others_is_not_used_and_they_are_not_opened(tmp_path: Path, how: str) -> None:
    other = tmp_path / "other.xsd"
    other.write_text(xsd('<xs:element name="other" type="xs:int"/>'))
    for address in (str(other), other.as_uri(), "http://127.0.0.1:1/other.xsd"):
        schema = Schema(xsd(f'<xs:{how} schemaLocation="{address}"/><xs:element name="number" type="xs:int"/>'))
        assert schema.defect == f"it includes {address}, which is not fetched"
        assert schema.errors_in(b"<number>five</number>") is None


@pytest.mark.parametrize("text", ["", '{"json": true}', "<a/>", xsd('<xs:element name="a" type="missing"/>')])
def test_a_text_that_is_no_schema_is_not_used(text: str) -> None:
    schema = Schema(text)
    assert schema.defect
    assert schema.errors_in(b"<number>five</number>") is None


def test_a_schema_reads_no_file_through_an_entity(tmp_path: Path) -> None:
    (tmp_path / "more").write_text('<xs:element xmlns:xs="http://www.w3.org/2001/XMLSchema" name="a" type="xs:int"/>')
    entity = f'<!DOCTYPE schema [<!ENTITY more SYSTEM "{(tmp_path / "more").as_uri()}">]>'
    schema = Schema(entity + xsd("&more;"))
    assert schema.defect or schema.errors_in(b"<a>5</a>")


def test_a_schema_is_compiled_and_complained_about_once(caplog: pytest.LogCaptureFixture) -> None:
    text = xsd('<xs:element name="a" type="missing-once"/>')
    with caplog.at_level(logging.WARNING):
        assert schema_of(text) is schema_of(text)
    assert [record.getMessage().count("missing-once") for record in caplog.records] == [1]


def test_threads_do_not_mix_their_errors() -> None:
    words = [f"word{number}" for number in range(300)]
    with ThreadPoolExecutor(8) as threads:
        errors = list(threads.map(lambda word: NUMBER.errors_in(f"<number>{word}</number>".encode()), words))
    assert [word for word, found in zip(words, errors, strict=True) if f"'{word}'" not in (found or "")] == []


MANY = "<number>1</number>" * 5000


@pytest.mark.parametrize(
    "document",
    [
        f"<numbers>{MANY}</numbers>",
        f"<!-- a --><numbers>{MANY}<!-- b --></numbers>\n",
        f"<numbers>{MANY}",
        f"<numbers>{MANY}<number>1",
        f"<numbers>{MANY}</numbers",
        f"<numbers>{MANY}</numbers>x",
        f"<numbers>{MANY}</numbers><numbers/>",
        f"<numbers>{MANY}<number>&amp;</number></numbers>",
        f"<numbers>{MANY}<number>&five;</number></numbers>",
        f"<numbers>{MANY}<number>1</other></numbers>",
        f"<numbers>{MANY}<number>1<![CDATA[</number></numbers>",
        f"<numbers>{MANY}<other/></numbers>",
        f"<number>{MANY}</number>",
        f"<numbers>{MANY}<number>\0</number></numbers>",
    ],
)
def test_any_large_document_is_judged_as_a_small_one(monkeypatch: pytest.MonkeyPatch, document: str) -> None:
    small = NUMBERS.errors_in(document.encode())
    monkeypatch.setattr(module, "LARGE", 0)
    assert NUMBERS.errors_in(document.encode()) == small


@pytest.mark.parametrize("number", ["5", "five", " "])
def test_a_large_document_is_judged_as_a_small_one(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    document = f"<numbers>{'<number>1</number>' * 1000}<number>{number}</number></numbers>".encode()
    small = NUMBERS.errors_in(document)
    monkeypatch.setattr(module, "LARGE", 0)
    assert NUMBERS.errors_in(document) == small
    assert (small is None) == (number == "5")


@pytest.mark.parametrize(
    "document",
    [
        "<number>5</number>",
        "<number>five</number>",
        "<number>",
        "",
        '<!DOCTYPE number [<!ENTITY five "5">]><number>&five;</number>',
        "<!DOCTYPE number><number>five</number>",
    ],
)
def test_a_document_is_judged_alike_whatever_counts_as_large(monkeypatch: pytest.MonkeyPatch, document: str) -> None:
    small = NUMBER.errors_in(document.encode())
    monkeypatch.setattr(module, "LARGE", -1)
    assert NUMBER.errors_in(document.encode()) == small


def test_of_a_large_valid_document_no_tree_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("lxml.etree.fromstring", fail)
    document = f"<numbers>{'<number>1</number>' * 60_000}</numbers>".encode()
    assert len(document) > module.LARGE
    assert NUMBERS.errors_in(document) is None
