"""Validates a record against the schema that CDCS holds, before it is sent; used by `export`.

A document is parsed as CDCS parses, but closed off: no network, no files, no entities.
"""

import logging
import re
from functools import lru_cache

from lxml import etree

from nexus_tasks.xsd import CompiledSchema, UnusableSchemaError, Violation, closed_parser

MOST_ERRORS = 3  # of one document, in a message
LARGE = 1_000_000  # bytes of a document of which no tree is made when it is valid
LONGEST_ERROR = 200  # characters
KEPT_SCHEMAS = 4  # texts; the current version of the template, and older ones that records still belong to

_NOISE = re.compile(r"\{[^{}\s]*\}|(, line \d+, column \d+)+( \(<string>, line \d+\))?$")  # namespaces, places

logger = logging.getLogger(__name__)


class Schema:
    """One XML schema; made by `schema_of`. `defect` says why it cannot be used here, and is None when it can."""

    def __init__(self, xsd: str) -> None:
        self.defect: str | None = None
        try:
            self._schema = CompiledSchema(xsd.encode("utf-8"))
        except UnusableSchemaError as error:
            self.defect = _short(str(error))
            logger.warning(
                "The schema of CDCS's template cannot be compiled here, CDCS alone validates the records: %s.",
                self.defect,
            )

    def errors_in(self, xml: bytes) -> str | None:
        """What is wrong with a document, by line, in a few words; None if it is valid or cannot be judged here."""
        if self.defect is not None:
            return None
        if len(xml) > LARGE and self._schema.accepts(xml):
            return None
        try:
            root = etree.fromstring(xml, closed_parser(remove_blank_text=True))
        except etree.XMLSyntaxError as error:
            return _listed([Violation(error.lineno or 1, error.msg)])
        if root.getroottree().docinfo.internalDTD is not None:
            return None  # it may use entities, which are not resolved here
        violations = self._schema.violations(root)
        return _listed(violations) if violations else None


@lru_cache(maxsize=KEPT_SCHEMAS)
def schema_of(xsd: str) -> Schema:
    """The schema with this text; why one cannot be compiled is logged once."""
    return Schema(xsd)


def _listed(errors: list[Violation]) -> str:
    lines = [f"line {error.line}: {_short(error.reason or 'not well-formed')}" for error in errors[:MOST_ERRORS]]
    more = len(errors) - len(lines)
    return "; ".join([*lines, f"and {more} more"] if more > 0 else lines)


def _short(message: str) -> str:
    plain = " ".join(_NOISE.sub("", message).split()).rstrip(".")
    return plain if len(plain) <= LONGEST_ERROR else plain[: LONGEST_ERROR - 1] + "…"
