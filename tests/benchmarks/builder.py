"""The builder: seconds a file, beside the bare reader on the same files, and sessions a minute.

The files are those of the demo, three pictures and a spectrum for each session. The bare reader is RosettaSciIO in a
process of its own (it is GPL-3, and never imported by the rest), which loads the data and does nothing with them.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from nexus_tasks.builder.record_builder import process_new_records
from nexus_tasks.db.engine import transaction
from nexus_tasks.sandbox import folder_sessions, sample_data
from tests.benchmarks.contender import NotExportedError
from tests.benchmarks.figures import OURS, Collected, Figure, in_turns
from tests.benchmarks.options import Options
from tests.benchmarks.ours import Installation
from tests.benchmarks.services import Services
from tests.benchmarks.usage import processor_seconds

PART = "builder"
SESSIONS = 25  # of a round
READER = "RosettaSciIO"
LONGEST_S = 300
_READ = """
import json, sys, time
from rsciio.msa import file_reader as read_msa
from rsciio.tiff import file_reader as read_tiff
readers = {".tif": read_tiff, ".msa": read_msa}
files = [file for file in sys.argv[1:] if file[-4:] in readers]
readers[files[0][-4:]](files[0])  # what is imported at the first file
started = time.perf_counter()
for file in files:
    for signal in readers[file[-4:]](file):
        signal["data"].sum()
print(json.dumps((time.perf_counter() - started) / len(files)))
"""


def measure(folder: Path, options: Options) -> list[Figure]:
    """See the module."""
    found = Collected(PART)
    if OURS not in options.contenders:
        return []
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))
        ours = parts.enter_context(Installation(folder / "ours", services))
        numbers = iter(range(options.rounds))

        def build() -> None:
            root = folder / f"round-{next(numbers)}"
            sample_data.make(root, SESSIONS)
            _note(found, ours, root)

        def read() -> None:
            root = folder / "bare"
            if not root.exists():
                sample_data.make(root, SESSIONS)
            found.add("wall time of a file", READER, "ms", 1000 * _read(root))

        in_turns(options.rounds, [build, read], options.say, "builder")
    found.ratio("wall time of a file", ("wall time of a file", OURS), ("wall time of a file", READER))
    return found.figures()


def _note(found: Collected, ours: Installation, root: Path) -> None:
    ours.configure({"NX_INSTRUMENT_DATA_PATH": str(root), "NX_CDCS_URL": "", "NX_CDCS_TOKEN": ""})
    sessions = [
        row.__class__(**{**vars(row), "session_identifier": f"{root.name}-{row.session_identifier}"})
        for row in folder_sessions.sessions_in(root)
    ]
    with transaction(ours.deployment.engine) as connection:
        folder_sessions.add(connection, sessions)
    files = sum(1 for file in root.rglob("*") if file.is_file())
    before, started = _own_processor(), time.perf_counter()
    outcomes = process_new_records(ours.deployment)
    seconds, used = time.perf_counter() - started, _own_processor() - before
    problems = [outcome.problem for outcome in outcomes if not outcome.built]
    if problems or len(outcomes) != len(sessions):
        raise NotExportedError(f"{len(outcomes)} of {len(sessions)} sessions were built: {problems[:3]}")
    found.add("sessions", OURS, "per minute", 60 * len(sessions) / seconds)
    found.add("wall time of a file", OURS, "ms", 1000 * seconds / files)
    found.add("processor time of a file", OURS, "ms", 1000 * used / files)


def _own_processor() -> float:
    """Of this process and of those that it has started, the reader's among them."""
    return processor_seconds(os.getpid())


def _read(root: Path) -> float:
    """Seconds that the bare reader takes for one file."""
    files = [str(file) for file in sorted(root.rglob("*")) if file.is_file()]
    command = [sys.executable, "-c", _READ, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=True)
    return float(json.loads(done.stdout))
