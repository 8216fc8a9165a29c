"""Tells whether a record in CDCS is this session's: a look-up adopts only such a one, and only such a one is changed.

Numbers alone do not tell: after CDCS was restored from a backup they are given once more, and another CDCS has its own.
Nor does the title: identifiers are shortened in it. What a record holds does, in most cases by its element `id`; a
record that NexusLIMS built names its usage event there, or its reservation, instead of the session's whole identifier.
Used by `export`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from lxml import etree

from nexus_tasks.exporters.base import ExportContext
from nexus_tasks.exporters.cdcs.api import CdcsApi, Record
from nexus_tasks.exporters.gone import NotOursError
from nexus_tasks.exporters.steps import Held, fingerprint
from nexus_tasks.exporters.title import nexuslims_title, record_title, usage_event_of

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)


@dataclass(frozen=True)
class WantedRecord:
    """The record of `context`'s session as it shall stand in CDCS.

    `known`, below, is what the checkpoint remembers of the record: contents as `content_of` gives them, with spaces
    between, each of which it may hold because of us.
    """

    context: ExportContext
    document: bytes  # UTF-8

    @property
    def xml(self) -> str:
        """The document as text."""
        return self.document.decode("utf-8")

    @cached_property
    def title(self) -> str:
        """Its title."""
        return record_title(self.context)

    @cached_property
    def content(self) -> str:
        """See `content_of`."""
        return content_of(self.title, self.document)

    def titles(self, known: str | None) -> Sequence[str]:
        """What it may be called: as it shall be, as it was when it was sent, and as NexusLIMS calls it."""
        sent = (known or "").split()[:1]  # with another date, if the session's times or zone were corrected since
        return list(dict.fromkeys([self.title, *sent, self._title_by_nexuslims]))

    def is_this(self, record: Record, known: str | None) -> bool:
        """Whether `record` is this session's, whatever people have made of it since."""
        if record.xml == self.xml or fingerprint(record.xml) in (known or "").split():
            return True
        if self.context.session_identifier.strip() in identifiers_in(record.xml):
            return True
        root = _root_of(record.xml)
        if root is None:
            return False
        same_id = bool(_ids_of(root) & _ids_of(_root_of(self.xml)))
        return (same_id and record.title in self.titles(known)) or self._is_of_usage_event(root)

    def was_made_by_nexuslims(self, record: Record) -> bool:
        """Whether `record`, of whose number NexusLIMS's log says that it is this session's, is called as it should be.

        The date is left out: it is not certain in which zone NexusLIMS wrote it.
        """
        return record.title.partition("_")[2] == self._title_by_nexuslims.partition("_")[2]

    @cached_property
    def _title_by_nexuslims(self) -> str:
        return nexuslims_title(self.context.dt_from, self.context.instrument_pid, self.context.session_identifier)

    def _is_of_usage_event(self, root: etree._Element) -> bool:
        """Whether it is what NexusLIMS builds of a usage event: its number is unique on one server, not everywhere."""
        summary = root.find("{*}summary")
        instrument = None if summary is None else summary.find("{*}instrument")
        if summary is None or instrument is None or instrument.get("pid") != self.context.instrument_pid:
            return False
        starts_with_it = _moment(summary.findtext("{*}reservationStart")) == self.context.dt_from
        return starts_with_it and usage_event_of(self.context.session_identifier) in _ids_of(root)


def our_record(api: CdcsApi, held: Held, wanted: WantedRecord) -> Record:
    """What stands under the number that is remembered; raises `NotOursError`, and what `CdcsApi.record` raises."""
    there = api.record(held.identifier)
    # Of what NexusLIMS made it is not known what it holds, nor which number it has as its `id`.
    by_nexuslims = held.content is None and wanted.was_made_by_nexuslims(there)
    if by_nexuslims or wanted.is_this(there, held.content):
        return there
    raise NotOursError(f"Record {held.identifier} in CDCS is another session's", "CDCS", "NX_CDCS_URL")


def content_of(title: str, xml: str | bytes) -> str:
    """What a checkpoint keeps of a record: its title, by which it can be found, and the fingerprint of its document."""
    return f"{title} {fingerprint(xml)}"


def identifiers_in(xml: str) -> set[str]:
    """What may be a document's session identifier: its element `id` below the root, without one any whole text."""
    root = _root_of(xml)
    if root is None:
        return set()
    if root.find("{*}id") is not None:
        return _ids_of(root)
    return {str(text).strip() for text in root.itertext()} - {""}


def _ids_of(root: etree._Element | None) -> set[str]:
    found = [] if root is None else root.iterchildren("{*}id")
    return {(element.text or "").strip() for element in found} - {""}


def _root_of(xml: str) -> etree._Element | None:
    try:
        return etree.fromstring(xml.encode("utf-8"), _PARSER)
    except (etree.XMLSyntaxError, ValueError):
        return None


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
