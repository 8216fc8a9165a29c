"""Validates a record against the schema that CDCS holds, before it is sent; used by `destinations/cdcs.py`.

Parsed as CDCS parses, but closed off: no network, no files, no entities. lxml keeps the errors of a validation in the
schema object itself, so no two threads share one: each compiles its own from the same text, once.
"""

import logging
import re
import threading
from functools import lru_cache
from typing import Any

from lxml import etree

from nexus_tasks.exporters.http_failures import plain_message

MOST_ERRORS = 3  # of one document, in a message
LONGEST_ERROR = 200  # characters
KEPT_SCHEMAS = 4  # texts; the current version of the template, and older ones that records still belong to

_NOISE = re.compile(r"\{[^{}\s]*\}|(, line \d+, column \d+)+( \(<string>, line \d+\))?$")  # namespaces, places

logger = logging.getLogger(__name__)


class Schema:
    """One XML schema; made by `schema_of`. `defect` says why it cannot be used here, and is None when it can."""

    def __init__(self, xsd: str) -> None:
        self._xsd = xsd
        self._here = threading.local()
        self.defect: str | None = None
        self._others = _Others()
        try:
            self._compiled()
        except (etree.LxmlError, ValueError) as error:
            others = ", ".join(self._others.asked)
            self.defect = f"it includes {others}, which is not fetched" if others else _short(str(error))
            logger.warning(
                "The schema of CDCS's template cannot be compiled here, CDCS alone validates the records: %s.",
                self.defect,
            )

    def errors_in(self, xml: str) -> str | None:
        """What is wrong with a document, by line, in a few words; None if it is valid or cannot be judged here."""
        if self.defect is not None:
            return None
        try:
            root = etree.fromstring(xml.encode("utf-8"), _parser())
        except etree.XMLSyntaxError as error:
            return _listed([(error.lineno or 1, error.msg)])
        if root.getroottree().docinfo.internalDTD is not None:
            return None  # it may use entities, which are not resolved here
        try:
            self._compiled().assertValid(root)
        except etree.DocumentInvalid as error:
            errors: Any = error.error_log  # lxml's stubs do not know that it can be iterated
            return _listed([(each.line, each.message) for each in errors])
        return None

    def _compiled(self) -> etree.XMLSchema:
        compiled: etree.XMLSchema | None = getattr(self._here, "compiled", None)
        if compiled is None:
            parser = _parser()
            parser.resolvers.add(self._others)
            compiled = etree.XMLSchema(etree.fromstring(self._xsd.encode("utf-8"), parser))
            self._here.compiled = compiled
        return compiled


@lru_cache(maxsize=KEPT_SCHEMAS)
def schema_of(xsd: str) -> Schema:
    """The schema with this text; why one cannot be compiled is logged once."""
    return Schema(xsd)


class _Others(etree.Resolver):
    """Keeps a schema from including others, from wherever: what it names is found empty, and remembered."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def resolve(self, system_url: str, _public_id: str, *context: Any) -> Any:
        self.asked.append(plain_message(system_url))
        return self.resolve_string("", *context, base_url=system_url)


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_blank_text=True)


def _listed(errors: list[tuple[int, str | None]]) -> str:
    lines = [f"line {line}: {_short(message or 'not well-formed')}" for line, message in errors[:MOST_ERRORS]]
    more = len(errors) - len(lines)
    return "; ".join([*lines, f"and {more} more"] if more > 0 else lines)


def _short(message: str) -> str:
    plain = " ".join(_NOISE.sub("", message).split()).rstrip(".")
    return plain if len(plain) <= LONGEST_ERROR else plain[: LONGEST_ERROR - 1] + "…"
