"""One record alone, from its hand-over to COMPLETED, over the sum of the calls on its critical path.

CDCS is called once and LabArchives three times, one after the other; eLabFTW's two calls run beside LabArchives's.
"""

import statistics
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.figures import FLOOR, OURS, Collected, Figure, in_turns
from tests.benchmarks.floor import Floor
from tests.benchmarks.options import WARM_UP, Options
from tests.benchmarks.ours import Installation, not_paced
from tests.benchmarks.services import Services

PART = "latency"
LATENCY_MS = 50
CALLS_ON_THE_PATH = 4
PROCESSES = 4
RECORDS = 15  # of a round, each alone
POLL_S = 0.002


def measure(folder: Path, options: Options) -> list[Figure]:
    """See the module."""
    found = Collected(PART)
    turns = []
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))
        services.set_latency(LATENCY_MS)
        if OURS in options.contenders:
            ours = parts.enter_context(Installation(folder / "ours", services))
            ours.start_workers(PROCESSES, not_paced(PROCESSES), options.pool)
            ours.export(options.new_records(WARM_UP))
            turns.append(lambda: _note(found, options, ours))
        if FLOOR in options.contenders:
            floor = parts.enter_context(Floor(folder / "floor", services))
            floor.start_workers(PROCESSES, options.pool)
            floor.export(options.new_records(WARM_UP))
            turns.append(lambda: _note(found, options, floor))
        in_turns(options.rounds, turns, options.say, "latency")
    return found.figures()


def _note(found: Collected, options: Options, contender: Installation | Floor) -> None:
    path_ms = CALLS_ON_THE_PATH * LATENCY_MS
    over = [contender.export(options.new_records(1), POLL_S).milliseconds - path_ms for _ in range(RECORDS)]
    what = f"one record alone at {LATENCY_MS} ms a call, over its {CALLS_ON_THE_PATH} calls"
    found.add(f"{what}, median", contender.name, "ms", statistics.median(over))
    found.add(f"{what}, slowest of {RECORDS}", contender.name, "ms", max(over))
