"""Runs in the peer's own environment: exports the batches that come as JSON lines, and answers what each took."""

import json
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from nexusLIMS.exporters import export_records
from nexusLIMS.schemas.activity import AcquisitionActivity
from nexusLIMS.utils import labarchives

PAUSE_S = labarchives._MIN_CALL_INTERVAL  # between two calls to LabArchives, as it ships


def main(answers: TextIO) -> None:
    """One answer for each question, until there are no more."""
    for line in sys.stdin:
        question = json.loads(line)
        labarchives._MIN_CALL_INTERVAL = PAUSE_S if question["pause"] else 0
        print(json.dumps(export(question["records"])), file=answers, flush=True)


def export(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Export a batch with the peer's own function; what it took, and what failed."""
    documents = [Path(record["document"]) for record in records]
    sessions = [session_of(record) for record in records]
    activities = [activities_of(record) for record in records]
    used, started = time.process_time(), time.perf_counter()
    results = export_records(documents, sessions, activities)
    seconds, processor_s = time.perf_counter() - started, time.process_time() - used
    failed = [result.error_message for each in results.values() for result in each if not result.success]
    missing = [str(document) for document in documents if len(results.get(document, [])) != 3]
    return {"seconds": seconds, "processor_s": processor_s, "failed": [*failed, *missing][:3]}


def session_of(record: dict[str, Any]) -> SimpleNamespace:
    """What `export_records` asks of a session."""
    return SimpleNamespace(
        session_identifier=record["session"],
        instrument=SimpleNamespace(name=record["instrument"]),
        dt_from=datetime.fromisoformat(record["start"]),
        dt_to=datetime.fromisoformat(record["end"]),
        user=record["user"],
    )


def activities_of(record: dict[str, Any]) -> list[Any]:
    """The files with their previews, by activity."""
    start, end = (datetime.fromisoformat(record[name]) for name in ("start", "end"))
    return [
        AcquisitionActivity(start=start, end=end, files=files, previews=previews)
        for files, previews in zip(record["files"], record["previews"], strict=True)
    ]


if __name__ == "__main__":
    real_stdout, sys.stdout = sys.stdout, sys.stderr  # whatever the peer prints does not get among the answers
    main(real_stdout)
