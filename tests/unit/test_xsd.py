"""XML schemas are compiled and asked closed off, for records of any kind."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lxml import etree

from nexus_tasks.builder.schema import RecordSchema
from nexus_tasks.xsd import CompiledSchema, UnusableSchemaError, Violation, closed_parser

NUMBER = '<xs:element name="number" type="xs:int"/>'


def xsd(body: str = NUMBER) -> bytes:
    return f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">{body}</xs:schema>'.encode()


def document(text: str) -> etree._Element:
    return etree.fromstring(text, closed_parser())


def test_a_valid_document_violates_nothing() -> None:
    assert CompiledSchema(xsd()).violations(document("<number>5</number>")) == []


def test_every_violation_has_its_line_and_reason() -> None:
    numbers = f"<xs:sequence maxOccurs='9'>{NUMBER}</xs:sequence>"
    many = CompiledSchema(xsd(f"<xs:element name='all'><xs:complexType>{numbers}</xs:complexType></xs:element>"))
    wrong = many.violations(document("<all>\n<number>one</number>\n<number>2</number>\n<number>three</number>\n</all>"))
    assert [(each.line, "one" in str(each.reason), "three" in str(each.reason)) for each in wrong] == [
        (2, True, False),
        (4, False, True),
    ]


@pytest.mark.parametrize("how", ["include", 'import namespace="urn:other"', "redefine"])
@pytest.mark.parametrize("schema", [CompiledSchema, RecordSchema])
def test_a_text_that_needs_another_schema_says_which_without_its_query(
    schema: type[CompiledSchema | RecordSchema], how: str
) -> None:
    with pytest.raises(UnusableSchemaError) as caught:
        schema(xsd(f'<xs:{how} schemaLocation="http://127.0.0.1:1/x?key=secret"/>{NUMBER}'))
    assert str(caught.value) == "it includes http://127.0.0.1:1/x?…, which is not fetched"


def test_a_file_may_include_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "number.xsd").write_bytes(xsd())
    (tmp_path / "all.xsd").write_bytes(xsd('<xs:include schemaLocation="number.xsd"/>'))
    assert CompiledSchema(tmp_path / "all.xsd").violations(document("<number>5</number>")) == []


@pytest.mark.parametrize("unfit", [b"", b"<a/>", xsd('<xs:element name="a" type="missing"/>'), Path("/not/there.xsd")])
def test_what_is_no_schema_is_not_used(unfit: bytes | Path) -> None:
    with pytest.raises(UnusableSchemaError, match=r"\w"):
        CompiledSchema(unfit)


def test_threads_share_a_schema_without_mixing_what_it_says() -> None:
    schema, words = CompiledSchema(xsd()), [f"word{number}" for number in range(300)]

    def said(word: str) -> list[Violation]:
        return schema.violations(document(f"<number>{word}</number>"))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(said, words))
    assert [word for word, wrong in zip(words, found, strict=True) if f"'{word}'" not in str(wrong)] == []
