"""What takes turns in a benchmark: something that exports records to the three services until all are there."""

from dataclasses import dataclass
from typing import Protocol

from tests.benchmarks.record import Record
from tests.benchmarks.usage import Processor

LONGEST_S = 900  # a hand-over that is not through by then is an error
POLL_S = 0.05


@dataclass(frozen=True)
class Run:
    """What it took to export some records."""

    records: int
    seconds: float
    processor: Processor

    @property
    def per_second(self) -> float:
        """Records."""
        return self.records / self.seconds

    @property
    def milliseconds(self) -> float:
        """Of wall time, for each record."""
        return 1000 * self.seconds / self.records


class Contender(Protocol):
    """One of those that take turns."""

    name: str

    def export(self, records: list[Record]) -> Run:
        """Hand them over and wait until every destination holds them; raises `TimeoutError`, or what went wrong."""


class NotExportedError(Exception):
    """A contender did not deliver what it was given, so that its figures would be worth nothing."""
