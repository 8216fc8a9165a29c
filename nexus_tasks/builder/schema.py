"""Parses records safely and checks them against a schema; called by whoever takes in or sends out a record.

`nexus-experiment.xsd` beside this module is the project's own description of the NexusLIMS record. A CDCS judges by its
own copy of the NIST schema: which of them decides about a record, `deciding_schema` finds out.
"""

import threading
from pathlib import Path
from typing import Any

from lxml import etree

NAMESPACE = "https://data.nist.gov/od/dm/nexus/experiment/v1.0"
OWN_SCHEMA = Path(__file__).with_name("nexus-experiment.xsd")


class InvalidRecordError(Exception):
    """A document is not a valid record; the message is one line with the line number and the reason."""


class UnusableSchemaError(Exception):
    """A schema cannot be used to check records; the message is one line with the reason."""


class RecordSchema:
    """One XML schema that records are checked against; may be used by several threads.

    `xsd` is its text, or the file that holds it, which may include others beside it. `name` completes "The record does
    not match …". Raises `UnusableSchemaError`.
    """

    def __init__(self, xsd: bytes | Path, name: str = "the schema") -> None:
        self.name = name
        self._lock = threading.Lock()  # lxml keeps the errors of a validation in the schema
        try:
            if isinstance(xsd, Path):
                self._schema = etree.XMLSchema(etree.parse(str(xsd), _parser()))
            else:
                parser = _parser()
                parser.resolvers.add(_NoOthers())
                self._schema = etree.XMLSchema(etree.fromstring(xsd, parser))
        except (etree.LxmlError, OSError, ValueError) as error:
            raise UnusableSchemaError(_reason(str(error))) from None

    def validate(self, xml: bytes) -> None:
        """Check a record; raises `InvalidRecordError` with the first reason."""
        root = parse_record(xml)
        with self._lock:
            if self._schema.validate(root):
                return
            errors: Any = self._schema.error_log  # a sequence, which its stubs leave out
            line, reason = errors[0].line, _reason(errors[0].message)
        raise InvalidRecordError(f"The record does not match {self.name}: line {line}: {reason}.")


class _NoOthers(etree.Resolver):
    """Keeps a schema that came over the network from including anything, from wherever."""

    def resolve(self, system_url: str, *_: Any) -> Any:
        raise ValueError(f"it includes {system_url}, which is not fetched")


def parse_record(xml: bytes) -> etree._Element:
    """The root of an XML document from anywhere: nothing is fetched, no entity is expanded, a DOCTYPE is refused.

    Raises `InvalidRecordError`.
    """
    try:
        root = etree.fromstring(xml, _parser())
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


def _parser() -> etree.XMLParser:
    """A parser for one document: parsers keep state, and are not shared between threads."""
    return etree.XMLParser(
        resolve_entities=False, load_dtd=False, dtd_validation=False, no_network=True, huge_tree=False
    )


def _reason(message: str | None) -> str:
    """libxml2's words on one line, without the namespace that every element repeats."""
    return " ".join((message or "unknown reason").replace(f"{{{NAMESPACE}}}", "").split()).rstrip(".")
