"""What the command line asks of every part."""

import sys
from dataclasses import dataclass, field
from itertools import count

from tests.benchmarks.figures import FLOOR, OURS, PEER
from tests.benchmarks.record import Record, records

ROUNDS = 3
RECORDS = 200  # of one run, where a part does not need fewer
WARM_UP = 16  # records before the clock starts: every process has its connections and its look-ups then
PEER_S = 15  # a run of the peer, which exports one record after the other, need not be longer


@dataclass
class Options:
    """See `python -m tests.benchmarks --help`."""

    rounds: int = ROUNDS
    records: int = RECORDS
    pool: str = "prefork"
    contenders: frozenset[str] = frozenset((OURS, FLOOR, PEER))
    latencies: tuple[int, ...] = (0, 50, 200)  # milliseconds
    _batches: "count[int]" = field(default_factory=lambda: count(1))

    def new_records(self, number: int) -> list[Record]:
        """So many that no contender has seen yet."""
        return records(number, next(self._batches))

    def say(self, what: str) -> None:
        """Progress, for whoever waits."""
        print(what, file=sys.stderr, flush=True)  # noqa: T201
