"""The records of a chaos run: small, distinct, the same in every process that is given the same number of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from nexus_tasks.builder.record_xml import RecordContent, write_record
from nexus_tasks.delivery.export_records import RecordToExport
from nexus_tasks.exporters.title import title_of

DESTINATIONS = ("cdcs", "elabftw", "labarchives")
INSTRUMENTS = 6
WEB_ADDRESS_EVERY = 10  # so many identifiers are web addresses, as NexusLIMS's are
FIRST_START = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
BETWEEN_STARTS = timedelta(minutes=10)
LENGTH = timedelta(minutes=9)
TOP_FOLDER = "NexusLIMS Records"


@dataclass(frozen=True)
class Expected:
    """What must be found of one record at the end; `doomed` destinations must have given up, with a reason."""

    session: str
    instrument: str
    title: str  # in CDCS; attachments are named after it
    page_path: str  # in LabArchives
    sha256: str
    destinations: frozenset[str] = frozenset(DESTINATIONS)
    doomed: frozenset[str] = frozenset()

    @property
    def attachment(self) -> str:
        """The file name of the XML attached in the notebooks."""
        return f"{self.title}.xml"


def records(count: int) -> Iterator[RecordToExport]:
    """So many records, oldest first."""
    for number in range(1, count + 1):
        session = f"chaos_{number:04d}"
        if number % WEB_ADDRESS_EVERY == 0:
            session = f"https://nemo.example.org/api/usage_events/?id={number}"
        instrument = f"Chaos-SEM-{number % INSTRUMENTS + 1}"
        start = FIRST_START + number * BETWEEN_STARTS
        end = start + LENGTH
        content = RecordContent(session, instrument, "Chaos SEM", f"Record {number}", "ann", start, end, ())
        yield RecordToExport(session, instrument, start, end, "UTC", "ann", write_record(content))


def expected(
    record: RecordToExport,
    *,
    destinations: frozenset[str] = frozenset(DESTINATIONS),
    doomed: frozenset[str] = frozenset(),
) -> Expected:
    """What must be found of `record`."""
    session, instrument = record.session_identifier, record.instrument_pid
    return Expected(
        session,
        instrument,
        title_of(record.dt_from, instrument, session),
        f"{TOP_FOLDER}/{instrument}/{record.dt_from:%Y-%m-%d} — {session}",
        sha256(record.xml).hexdigest(),
        destinations,
        doomed,
    )
