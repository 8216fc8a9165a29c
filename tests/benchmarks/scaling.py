"""Records a second with 1, 2, 4 and 8 processes at 200 ms a call, and how much of the processor they take."""

import os
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from tests.benchmarks.contender import Run
from tests.benchmarks.figures import FLOOR, OURS, Collected, Figure, in_turns
from tests.benchmarks.floor import Floor
from tests.benchmarks.options import Options
from tests.benchmarks.ours import Installation, not_paced
from tests.benchmarks.services import Services

PART = "scaling"
LATENCY_MS = 200
PROCESSES = (1, 2, 4, 8)
RECORDS_PER_PROCESS = 8
WARM_UP_PER_PROCESS = 2


def measure(folder: Path, options: Options) -> list[Figure]:
    """See the module."""
    found = Collected(PART)
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))
        services.set_latency(LATENCY_MS)
        ours = parts.enter_context(Installation(folder / "ours", services)) if OURS in options.contenders else None
        floor = parts.enter_context(Floor(folder / "floor", services)) if FLOOR in options.contenders else None
        for processes in PROCESSES:
            turns = []

            def note(contender: Installation | Floor, processes: int = processes) -> None:
                run = contender.export(options.new_records(RECORDS_PER_PROCESS * processes))
                _note(found, run, contender.name, processes)

            if ours is not None:
                ours.start_workers(processes, not_paced(processes), options.pool)
                ours.export(options.new_records(WARM_UP_PER_PROCESS * processes))
                turns.append(lambda note=note: note(ours))
            if floor is not None:
                floor.start_workers(processes, options.pool)
                floor.export(options.new_records(WARM_UP_PER_PROCESS * processes))
                turns.append(lambda note=note: note(floor))
            in_turns(options.rounds, turns, options.say, f"scaling, {processes} processes")
    for fewer, more in pairwise(PROCESSES):
        for contender in (OURS, FLOOR):
            name = f"{more} over {fewer}, per process"
            found.ratio(name, (_rate(more), contender), (_rate(fewer), contender), scale=fewer / more)
    return found.figures()


def _rate(processes: int) -> str:
    return f"{processes} processes at {LATENCY_MS} ms a call"


def _note(found: Collected, run: Run, contender: str, processes: int) -> None:
    found.add(_rate(processes), contender, "records/s", run.per_second)
    used = 100 * run.processor.total / run.seconds / (os.cpu_count() or 1)
    found.add(f"{processes} processes: of the machine's processors", contender, "%", used)
