"""Parses records safely and checks them against a schema; called by whoever takes in or sends out a record.

`nexus-experiment.xsd` beside this module is the project's own description of the NexusLIMS record. A CDCS judges by its
own copy of the NIST schema: which of them decides about a record, `deciding_schema` finds out.
"""

from pathlib import Path
from typing import Any

from lxml import etree

from nexus_tasks.plain_error import PlainError
from nexus_tasks.xsd import CompiledSchema, UnusableSchemaError, closed_parser

NAMESPACE = "https://data.nist.gov/od/dm/nexus/experiment/v1.0"
OWN_SCHEMA = Path(__file__).with_name("nexus-experiment.xsd")


class InvalidRecordError(PlainError):
    """A document is not a valid record; the message is one line with the line number and the reason."""


class RecordSchema:
    """One XML schema that records are checked against; may be used by several threads.

    `xsd` is as `CompiledSchema` takes it; `name` completes "The record does not match …". Raises `UnusableSchemaError`,
    with a message of one line.
    """

    def __init__(self, xsd: bytes | Path, name: str = "the schema") -> None:
        self.name = name
        try:
            self._schema = CompiledSchema(xsd)
        except UnusableSchemaError as error:
            raise UnusableSchemaError(_reason(str(error))) from None

    def validate(self, xml: bytes) -> None:
        """Check a record; raises `InvalidRecordError` with the first reason."""
        violations = self._schema.violations(parse_record(xml))
        if violations:
            first = violations[0]
            raise InvalidRecordError(
                f"The record does not match {self.name}: line {first.line}: {_reason(first.reason)}."
            )


def parse_record(xml: bytes) -> etree._Element:
    """The root of an XML document from anywhere: nothing is fetched, no entity is expanded, a DOCTYPE is refused.

    Raises `InvalidRecordError`.
    """
    try:
        root = etree.fromstring(xml, closed_parser())
    except etree.XMLSyntaxError as error:
        line = error.lineno or 1
        raise InvalidRecordError(f"The record is not well-formed XML: line {line}: {_reason(error.msg)}.") from None
    docinfo: Any = root.getroottree().docinfo  # its stubs leave `doctype` out
    if docinfo.doctype:
        raise InvalidRecordError("The record has a DOCTYPE, which is refused: line 1: remove it.")
    return root


def validate(xml: bytes, xsd: Path | None = None) -> None:
    """Check a record against `xsd`, by default the project's own schema.

    Raises `InvalidRecordError` with the first reason, and `UnusableSchemaError`.
    """
    RecordSchema(xsd or OWN_SCHEMA).validate(xml)


def _reason(message: str | None) -> str:
    """libxml2's words on one line, without the namespace that every element repeats."""
    return " ".join((message or "unknown reason").replace(f"{{{NAMESPACE}}}", "").split()).rstrip(".")
