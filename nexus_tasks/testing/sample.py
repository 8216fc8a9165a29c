"""A record to try a destination with: a valid document, data files, previews; called by tests."""

import hashlib
import struct
import zlib
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

from nexus_tasks.builder.readers.base import Dataset, Fact
from nexus_tasks.builder.record_xml import ActivityContent, RecordContent, write_record
from nexus_tasks.exporters.base import Activity, Checkpoint, ExportContext, ExportResult, MemoryCheckpoint

START = datetime(2026, 3, 2, 9, 0, tzinfo=timezone(timedelta(hours=-5)))
END = START + timedelta(hours=1, minutes=30)
SIDE = 16  # pixels of a preview


def sample_context(
    folder: Path,
    session_identifier: str = "2026-03-02_09-00-00_sample",
    *,
    instrument_pid: str = "Sample-TEM-012345",
    user: str | None = "jsmith",
    text: str = "first",
    previous_results: Mapping[str, ExportResult] | None = None,
    checkpoint: Checkpoint | None = None,
) -> ExportContext:
    """A session as a worker hands it to `export`: two activities, three data files, two previews.

    Its files are written below `folder`. Another `text` gives another version of the same record, as a rebuild does.
    Without a `checkpoint` nothing is remembered of the record.
    """
    version = hashlib.sha256(f"{session_identifier}\0{text}".encode("utf-8", errors="surrogatepass")).hexdigest()[:12]
    names = (("survey.dm3", "grain boundary.dm3"), ("spectrum.msa",))
    activities, contents = [], []
    for number, group in enumerate(names):
        files = tuple(_data_file(folder / "data" / version / name) for name in group)
        previews = tuple(_preview(folder / "previews" / version / f"{file.name}.png", text) for file in files)
        if number == 1:
            previews = (None,)  # not every file has one
        activities.append(Activity(files, previews))
        contents.append(_content(files, START + number * timedelta(minutes=20), text))
    record = folder / f"record-{version}.xml"
    record.write_bytes(
        write_record(
            RecordContent(
                session_identifier=session_identifier,
                instrument_pid=instrument_pid,
                instrument_name="Sample microscope",
                title=f"Sample record ({text})",
                user=user,
                start=START,
                end=END,
                activities=tuple(contents),
            )
        )
    )
    return ExportContext(
        xml_file_path=record,
        session_identifier=session_identifier,
        instrument_pid=instrument_pid,
        dt_from=START,
        dt_to=END,
        user=user,
        metadata={"sha256": hashlib.sha256(record.read_bytes()).hexdigest()},
        previous_results=dict(previous_results or {}),
        activities=activities,
        checkpoint=MemoryCheckpoint() if checkpoint is None else checkpoint,
    )


def _data_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"made up, nothing in it was measured\n")
    return path


def _content(files: tuple[Path, ...], start: datetime, text: str) -> ActivityContent:
    datasets = [
        Dataset(
            name=file.name,
            location=PurePosixPath(file.name),
            format=file.suffix.lstrip("."),
            type="Image",
            acquired=start,
            facts=(Fact("Version", text),),
            preview=None,
            reader="basic",
        )
        for file in files
    ]
    return ActivityContent(start, tuple(datasets), (None,) * len(files))


def _preview(path: Path, text: str) -> Path | None:
    """A small grey picture, another one for another file or text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = hashlib.sha256(f"{path.name} {text}".encode("utf-8", errors="surrogatepass")).digest()[0]
    rows = b"".join(b"\0" + bytes((shade + column) % 256 for column in range(SIDE)) for _ in range(SIDE))
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)  # eight bits of grey
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts))
    return path


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
