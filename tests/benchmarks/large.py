"""Records that are large, 1, 10 and 50 MB of XML or 500 previews: what a worker's process grows to, and the seconds.

One worker with one process (or sixteen threads) gets them one after the other, the larger ones last.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.figures import OURS, Collected, Figure
from tests.benchmarks.options import Options
from tests.benchmarks.ours import THREADS, Installation, not_paced
from tests.benchmarks.record import Record, large_record, write_previews
from tests.benchmarks.services import Services
from tests.benchmarks.usage import Memory

PART = "large"
MEGABYTES = (1, 10, 50)
PREVIEWS = 500
LOOK_S = 0.05  # between two looks at the memory
THREADS_OF_THE_WORKER = 16


def measure(folder: Path, options: Options) -> list[Figure]:
    """See the module."""
    found = Collected(PART)
    if OURS not in options.contenders:
        return []
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))
        ours = parts.enter_context(Installation(folder / "ours", services))
        write_previews(folder / "ours" / "data" / "previews", PREVIEWS)
        concurrency = THREADS_OF_THE_WORKER if options.pool == THREADS else 1
        kinds = {"33 kB": (0.0, None), f"{PREVIEWS} previews": (0.0, PREVIEWS)}
        kinds |= {f"{size} MB": (float(size), None) for size in MEGABYTES}
        for number in range(options.rounds):
            options.say(f"large: round {number + 1} of {options.rounds}")
            ours.start_workers(concurrency, not_paced(concurrency), options.pool)
            ours.export(options.new_records(concurrency))
            for name, (size, previews) in kinds.items():
                _note(found, ours, name, large_record(options.new_records(1)[0], size, previews))
    return found.figures()


def _note(found: Collected, ours: Installation, name: str, record: Record) -> None:
    with _highest_memory(ours) as highest:
        run = ours.export([record])
    found.add(f"{name}: wall time", OURS, "s", run.seconds)
    found.add(f"{name}: most memory of its own, largest process", OURS, "MB", max(each.largest_own for each in highest))


@contextmanager
def _highest_memory(ours: Installation) -> Iterator[list[Memory]]:
    """What the worker's processes hold, looked at again and again until the block ends."""
    seen, end = [ours.memory()], threading.Event()

    def look() -> None:
        while not end.is_set():
            seen.append(ours.memory())
            time.sleep(LOOK_S)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        end.set()
        watcher.join()
