"""XML schemas, closed off: compiled and asked without network, entities, or files that nobody named.

`builder/schema` checks records by one, `exporters/cdcs/schema` what goes to a CDCS; each says what it means for it.
"""

import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from lxml import etree


class UnusableSchemaError(Exception):
    """A schema cannot be used; the message says why, in a few words."""


@dataclass(frozen=True)
class Violation:
    """What a schema says against a document, in libxml2's words."""

    line: int
    reason: str | None


class CompiledSchema:
    """One XML schema; may be used by several threads.

    `xsd` is its text, which may include no others, or the file that holds it, which may include those beside it. Raises
    `UnusableSchemaError`.
    """

    def __init__(self, xsd: bytes | Path) -> None:
        self._lock = threading.Lock()  # lxml keeps the errors of a validation in the schema
        parser, others = closed_parser(), _Others()
        try:
            if isinstance(xsd, Path):
                document = etree.parse(str(xsd), parser)
            else:
                parser.resolvers.add(others)
                document = etree.ElementTree(etree.fromstring(xsd, parser))
            self._schema = etree.XMLSchema(document)
        except (etree.LxmlError, OSError, ValueError) as error:
            asked = ", ".join(others.asked)
            raise UnusableSchemaError(f"it includes {asked}, which is not fetched" if asked else str(error)) from None

    def violations(self, document: etree._Element) -> list[Violation]:
        """What is wrong with a document; empty when it is valid."""
        with self._lock:
            if self._schema.validate(document):
                return []
            errors: Any = self._schema.error_log  # a sequence, which its stubs leave out
            found = [Violation(error.line, error.message) for error in errors]
        return found or [Violation(1, None)]  # without a word it is still not valid

    def accepts(self, document: bytes) -> bool:
        """Whether a document is valid, read as it comes, in a memory that does not grow with it.

        For a large one, of which a tree takes ten times its size; what is wrong with it, `violations` says. A document
        with a type declaration is not accepted.
        """
        reader = etree.iterparse(
            BytesIO(document),
            schema=self._schema,
            resolve_entities=False,
            load_dtd=False,
            dtd_validation=False,
            no_network=True,
            huge_tree=False,
        )
        ended = None
        try:
            for _, ended in reader:
                ended.clear()
                before = ended.getprevious()
                if before is not None:  # read to its end, and empty by now
                    parent = ended.getparent()
                    if parent is not None:
                        parent.remove(before)
        except etree.XMLSyntaxError:
            return False
        if ended is None or ended is not reader.root:  # lxml does not tell that a document is cut off
            return False
        return ended.getroottree().docinfo.internalDTD is None


def closed_parser(*, remove_blank_text: bool = False) -> etree.XMLParser:
    """A parser for one document: parsers keep state, and are not shared between threads."""
    return etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        no_network=True,
        huge_tree=False,
        remove_blank_text=remove_blank_text,
    )


class _Others(etree.Resolver):
    """Keeps a schema that came over the network from including others: what it names is found empty, and remembered."""

    def __init__(self) -> None:
        self.asked: list[str] = []  # without queries, which may hold secrets

    def resolve(self, system_url: str, _public_id: str, *context: Any) -> Any:
        address, query, _ = system_url.partition("?")
        self.asked.append(f"{address}?…" if query else address)
        return self.resolve_string("", *context, base_url=system_url)
