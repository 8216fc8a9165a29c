"""The record that every contender exports: 33 kB of XML, 13 files in 4 activities, 117 kB of previews.

Its size and its parts are those of a real session. Only the session differs from record to record, so that the XML of
all of them has the same number of bytes.
"""

import random
import struct
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath

from nexus_tasks.builder.readers.base import Dataset, Fact
from nexus_tasks.builder.record_xml import ActivityContent, RecordContent, write_record

INSTRUMENT = "Bench-SEM-1"
USER = "ann"
ZONE = "UTC"
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LENGTH = timedelta(hours=1)
FILES_OF_ACTIVITIES = (4, 4, 3, 2)
FACTS_OF_A_FILE = 27  # of its own; with them the XML has 33 kB
FACTS_OF_SETUP = 12
BYTES_OF_A_FACT = 75  # in the XML
PREVIEW_SIDE = 94  # pixels; noise does not compress, so that a preview has 9 kB
_SESSION = "bench-00000000-0000"  # stands in the template of the XML, and is as long as every identifier

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Record:
    """One session's record: `files` and `previews` by activity, as paths below the two roots."""

    session: str
    xml: bytes
    files: tuple[tuple[str, ...], ...]
    previews: tuple[tuple[str, ...], ...]
    start: datetime = START
    end: datetime = START + LENGTH

    @property
    def batch(self) -> str:
        """What the sessions of one hand-over begin with, and no others."""
        return self.session.rpartition("-")[0] + "-"


def records(count: int, batch: int) -> list[Record]:
    """So many records; `batch` keeps the identifiers of one hand-over apart from those of the others."""
    paths = tuple(tuple(f"{path}" for path in activity) for activity in _paths())
    previews = tuple(tuple(f"{path}.thumb.png" for path in activity) for activity in paths)
    template = _template()
    found = []
    for number in range(count):
        session = f"bench-{batch:08d}-{number:04d}"
        xml = template.replace(_SESSION.encode(), session.encode())
        found.append(Record(session, xml, paths, previews))
    return found


def large_record(record: Record, megabytes: float, previews: int | None = None) -> Record:
    """This record with so much more XML, in facts of its files, or with so many files and previews in one activity."""
    more = round(megabytes * 1e6 / BYTES_OF_A_FACT / sum(FILES_OF_ACTIVITIES))
    xml = _template(FACTS_OF_A_FILE + more, 0 if previews is None else previews)
    paths = tuple(tuple(str(path) for path in activity) for activity in _paths(previews or 0))
    return replace(
        record,
        xml=xml.replace(_SESSION.encode(), record.session.encode()),
        files=paths,
        previews=tuple(tuple(f"{path}.thumb.png" for path in activity) for activity in paths),
    )


def write_previews(root: Path, more: int = 0) -> None:
    """Put the previews, which all records share, below the root of previews; `more` are for a record with so many."""
    for activity in (*_paths(), *(_paths(more) if more else ())):
        for path in activity:
            file = root / f"{path}.thumb.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_noise(PREVIEW_SIDE, seed=str(path)))


def write_files(root: Path) -> None:
    """Put empty files where the record says that data are: only their names are sent."""
    for activity in _paths():
        for path in activity:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def _paths(one_activity: int = 0) -> list[list[PurePosixPath]]:
    """The files by activity; `one_activity` of so many files in the place of the usual four."""
    folder = PurePosixPath("Bench_SEM/researcher_a/project_alpha/20260302")
    return [
        [folder / f"specimen_{activity}_image_{number:03d}.dm3" for number in range(files)]
        for activity, files in enumerate((one_activity,) if one_activity else FILES_OF_ACTIVITIES, start=1)
    ]


@lru_cache(maxsize=8)
def _template(facts_of_a_file: int = FACTS_OF_A_FILE, one_activity: int = 0) -> bytes:
    activities = []
    for number, paths in enumerate(_paths(one_activity)):
        start = START + number * timedelta(minutes=10)
        setup = tuple(Fact(f"Setup Parameter {each}", f"{each * 1.25:.3f}", "kV") for each in range(FACTS_OF_SETUP))
        datasets = tuple(
            Dataset(
                name=path.name,
                location=path,
                format="DM3",
                type="Image",
                acquired=start,
                facts=setup
                + tuple(
                    Fact(f"Acquisition Parameter {each}", f"{place + each / 7:.6f}", "nm")
                    for each in range(facts_of_a_file)
                ),
                preview=None,
                reader="benchmark",
            )
            for place, path in enumerate(paths, start=1)
        )
        previews = tuple(PurePosixPath(f"{path}.thumb.png") for path in paths)
        activities.append(ActivityContent(start, datasets, previews))
    return write_record(
        RecordContent(
            session_identifier=_SESSION,
            instrument_pid=INSTRUMENT,
            instrument_name="The microscope of the benchmark",
            title="A session of the benchmark",
            user=USER,
            start=START,
            end=START + LENGTH,
            activities=tuple(activities),
        )
    )


def _noise(side: int, seed: str) -> bytes:
    """A PNG of grey noise."""
    source = random.Random(seed)
    rows = b"".join(b"\0" + source.randbytes(side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
