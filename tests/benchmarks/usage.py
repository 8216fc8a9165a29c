"""Processor time and memory of running processes, as Linux counts them."""

from dataclasses import dataclass
from typing import Any

import psutil

MEGABYTE = 2**20


@dataclass(frozen=True)
class Processor:
    """Seconds of processor time, user and system together, since the processes were started."""

    workers: float
    postgres: float = 0.0
    broker: float = 0.0

    def __sub__(self, earlier: "Processor") -> "Processor":
        return Processor(self.workers - earlier.workers, self.postgres - earlier.postgres, self.broker - earlier.broker)

    @property
    def total(self) -> float:
        """Of all three."""
        return self.workers + self.postgres + self.broker


@dataclass(frozen=True)
class Memory:
    """Megabytes of a family of processes."""

    processes: int
    own: float  # shared with no other process (USS), summed
    proportional: float  # with its share of what is shared (PSS), summed
    largest_own: float  # USS of the process that has most


def processor_seconds(pid: int) -> float:
    """Of a process and all its descendants, also of those that have ended and were waited for.

    PostgreSQL's backends come and go: the reading is repeated until none did so while it was taken.
    """
    parent = psutil.Process(pid)
    while True:
        before = _family(parent)
        total = 0.0
        for process in before:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        if _family(parent) == before:
            return total


def memory(pid: int) -> Memory:
    """Of a process and all its descendants."""
    own, proportional = [], 0.0
    for process in _family(psutil.Process(pid)):
        try:
            used = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        own.append(used.uss / MEGABYTE)
        proportional += used.pss / MEGABYTE
    return Memory(len(own), sum(own), proportional, max(own))


def _family(parent: Any) -> list[Any]:
    return [parent, *sorted(parent.children(recursive=True), key=lambda process: process.pid)]
