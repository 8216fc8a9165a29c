"""Processor time of one record: workers, PostgreSQL and broker; beside the floor, the peer and the bare calls.

The services answer at once, from a process whose time is nobody's. The hand-over runs in the harness's own process and
is not in it: see `backlog` for what that takes.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.contender import Run
from tests.benchmarks.figures import FLOOR, OURS, PEER, REQUESTS, Collected, Figure, in_turns
from tests.benchmarks.floor import Floor
from tests.benchmarks.options import WARM_UP, Options
from tests.benchmarks.ours import Installation, not_paced
from tests.benchmarks.peer import Peer
from tests.benchmarks.services import NAMES, ROOT, Services

PART = "processor"
PROCESSES = 4
MS = "ms/record"
TOTAL = "workers, PostgreSQL, broker"
LONGEST_S = 300  # the bare calls


def measure(folder: Path, options: Options) -> list[Figure]:
    """See the module."""
    found = Collected(PART)
    turns = []
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))
        if OURS in options.contenders:
            ours = parts.enter_context(Installation(folder / "ours", services))
            ours.start_workers(PROCESSES, not_paced(PROCESSES), options.pool)
            ours.export(options.new_records(WARM_UP))
            turns.append(lambda: _note(found, ours.export(options.new_records(options.records)), OURS))
        if FLOOR in options.contenders:
            floor = parts.enter_context(Floor(folder / "floor", services))
            floor.start_workers(PROCESSES, options.pool)
            floor.export(options.new_records(WARM_UP))
            turns.append(lambda: _note(found, floor.export(options.new_records(options.records)), FLOOR))
        if PEER in options.contenders:
            peer = parts.enter_context(Peer(folder / "peer", services))
            peer.export(options.new_records(3))
            turns.append(lambda: _note(found, peer.export(options.new_records(options.records)), PEER))
        turns.append(lambda: found.add(TOTAL, REQUESTS, MS, _bare_calls(services, options.records)))
        in_turns(options.rounds, turns, options.say, "processor")
        if OURS in options.contenders:
            memory = ours.memory()
            found.add("memory of its own, largest process", OURS, "MB", memory.largest_own)
            found.add("memory of all worker processes (PSS)", OURS, "MB", memory.proportional)
        if FLOOR in options.contenders:
            memory = floor.memory()
            found.add("memory of its own, largest process", FLOOR, "MB", memory.largest_own)
            found.add("memory of all worker processes (PSS)", FLOOR, "MB", memory.proportional)
    for other in (FLOOR, PEER, REQUESTS):
        found.ratio(TOTAL, (TOTAL, OURS), (TOTAL, other))
    return found.figures()


def _note(found: Collected, run: Run, contender: str) -> None:
    found.add(TOTAL, contender, MS, 1000 * run.processor.total / run.records)
    if contender != PEER:
        found.add("workers", contender, MS, 1000 * run.processor.workers / run.records)
        found.add("PostgreSQL", contender, MS, 1000 * run.processor.postgres / run.records)
        found.add("broker", contender, MS, 1000 * run.processor.broker / run.records)
    found.add("wall time", contender, MS, run.milliseconds)


def _bare_calls(services: Services, records: int) -> float:
    """Milliseconds of processor time that the six calls of a record take with `requests` alone."""
    urls = [services.urls[name] for name in NAMES]
    command = [sys.executable, "-m", "tests.benchmarks.six_calls", str(records), *urls]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S, check=True)
    return 1000 * float(json.loads(done.stdout)["processor_s"])
