"""The process that reads files for `isolation.FileReader`: one JSON line in, one JSON line out.

Started as `python -m nexus_tasks.builder.readers.child TIME_LIMIT MEMORY_LIMIT`. Everything that a damaged or hostile
file can do happens here: the kernel ends the process when a read takes too long, and refuses memory above the limit.
"""

import json
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import storage
from nexus_tasks.builder.readers.base import Dataset, UnreadableError, one_line
from nexus_tasks.builder.readers.messages import dataset_to_json, file_from_json

Read = Callable[[DataFile], tuple[Dataset, ...]]

# Seconds after which the kernel ends a read whose parent is gone; a living parent ends it at the limit itself.
GRACE = 5.0


def main() -> None:
    """Announce whether RosettaSciIO is there, then serve."""
    answers = _take_over_stdout()
    try:
        read, left_out = _readers()
    except ImportError as error:
        _say(answers, {"ready": False, "problem": one_line(error)})
        return
    serve(read, answers, left_out)


def serve(read: Read, answers: int | None = None, left_out: Sequence[str] = ()) -> None:
    """Answer requests with what `read` returns or raises, until standard input ends.

    The greeting names the readers that are left out, each in a sentence that says why.
    """
    time_limit, memory_limit = float(sys.argv[1]), int(sys.argv[2])
    answers = _take_over_stdout() if answers is None else answers
    # Private writable memory is what counts: a lazily read file of 10 GB is mapped, and needs address space only.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    logging.disable()
    _say(answers, {"ready": True, "left_out": list(left_out)})
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, time_limit + GRACE)
        out_of_memory = False
        answer: dict[str, object]
        file = file_from_json(json.loads(line))
        try:
            answer = {"datasets": [dataset_to_json(dataset) for dataset in read(file)]}
        except MemoryError:
            out_of_memory = True
            answer = {"problem": f"reading it needs more than {memory_limit // 1024**2} MiB of memory"}
        except Exception as error:  # noqa: BLE001 whatever a reader raises is the answer
            storage.note(error)
            # Records name files by their location: the full path would tell about this machine, and differ on others.
            problem = str(error) if isinstance(error, UnreadableError) else one_line(error)
            answer = {"problem": problem.replace(str(file.path), file.path.name)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        # What a reader leaves behind would take its part of the next file's memory.
        last = out_of_memory or _resident_bytes() > memory_limit // 2
        _say(answers, {**answer, "storage_failed": storage.has_failed(), "last": last})
        if last:
            return


def _readers() -> tuple[Read, list[str]]:
    import dask

    from nexus_tasks.builder.readers import order

    dask.config.set(scheduler="synchronous")  # one chunk in memory at a time, and no threads to be ended with
    readers, left_out = order.readers()
    return lambda file: order.read(file, readers), left_out


def _take_over_stdout() -> int:
    """A descriptor for answers only: what libraries print goes where errors go."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _say(answers: int, message: dict[str, object]) -> None:
    data = json.dumps(message).encode("ascii") + b"\n"
    while data:
        data = data[os.write(answers, data) :]


def _resident_bytes() -> int:
    """Memory in use now; 0 where the system does not tell (only Linux has /proc)."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    main()
