"""What LabArchives's pace costs the others, with four worker processes.

`python -m tests.benchmarks.pacing`: the same records in rounds on the same machine: without LabArchives, with its calls
one after the other (the default), with an interval between them. LabArchives answers after `--latency` seconds, as a
service on the internet does. Printed are the median seconds until CDCS and eLabFTW hold every record, and what
LabArchives saw over all rounds: most calls at once, and the shortest time from the start of one call to the next. The
last round goes on until LabArchives holds every record, too. `--layout` is how the four processes are shared out:
`separate`, as docker-compose.yml has it (one for each destination, one for finalize), or `shared` (all for everything).
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import text

from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.export_records import export_records
from nexus_tasks.sandbox.services import client
from tests.benchmarks.running import Running, running
from tests.chaos.records import records

LAYOUTS: dict[str, tuple[tuple[tuple[str, ...], ...], int]] = {  # queues of each worker, and processes in each
    "separate": ((("export.cdcs",), ("export.elabftw",), ("export.labarchives",), ("exports",)), 1),
    "shared": (((),), 4),
}
WINDOW = 8  # records on their way to LabArchives, where its calls keep an interval
POLL_S = 0.1
LONGEST_S = 900
WITHOUT = {f"NX_LABARCHIVES_{name}": "" for name in ("URL", "ACCESS_KEY_ID", "ACCESS_PASSWORD", "USER_ID")}


@dataclass
class Figures:
    """What the rounds showed."""

    labarchives: str
    others_s: list[float] = field(default_factory=list)
    labarchives_s: float | None = None
    most_calls_at_once: int = 0
    shortest_between_starts_s: float | None = None

    def look(self, seen: dict[str, Any]) -> None:
        """Take in what LabArchives has counted."""
        self.most_calls_at_once = max(self.most_calls_at_once, seen["max_concurrent"])
        starts = [call["started"] for call in seen["recent"]]
        between = [later - earlier for earlier, later in pairwise(starts)]
        known = [] if self.shortest_between_starts_s is None else [self.shortest_between_starts_s]
        self.shortest_between_starts_s = min([*known, *between], default=None)


def measure(
    folder: Path, settings: dict[str, str], given: argparse.Namespace, figures: Figures, *, to_the_end: bool
) -> None:
    """Hand over the records and watch until the destinations hold them."""
    workers, concurrency = LAYOUTS[given.layout]
    with running(folder, settings, workers=workers, concurrency=concurrency) as this:
        client.set_faults(this.addresses["labarchives"], [{"kind": "latency", "seconds": given.latency}])
        started = time.monotonic()
        export_records(records(given.records), this.deployment)
        figures.others_s.append(_wait(this, ("cdcs", "elabftw"), given.records, started))
        if to_the_end and settings is not WITHOUT:
            figures.labarchives_s = _wait(this, ("labarchives",), given.records, started)
        figures.look(client.calls(this.addresses["labarchives"]))


def _wait(this: Running, destinations: tuple[str, ...], count: int, started: float) -> float:
    """Seconds from the start until these destinations hold every record."""
    while time.monotonic() - started < LONGEST_S:
        with transaction(this.deployment.engine) as connection:
            done = connection.execute(
                text("SELECT count(*) FROM delivery WHERE destination = ANY(:names) AND state = 'succeeded'"),
                {"names": list(destinations)},
            ).scalar_one()
        if done == len(destinations) * count:
            return round(time.monotonic() - started, 1)
        time.sleep(POLL_S)
    raise TimeoutError(f"{destinations} do not hold every record after {LONGEST_S} s")


def main() -> int:
    """Run the rounds, and say whether what is promised holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pacing", description=__doc__)
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layout", choices=LAYOUTS, default="separate")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds until LabArchives answers")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two calls to it")
    given = parser.parse_args()
    paced = {"NX_WINDOWS": f"labarchives={WINDOW}", "NX_INTERVALS": f"labarchives={given.interval}"}
    kinds = {"left out": WITHOUT, "one after the other": {}, f"every {given.interval:g} s": paced}
    figures = {name: Figures(name) for name in kinds}
    with TemporaryDirectory(prefix="nexus-pacing-") as folder:
        for number in range(given.rounds):
            for name, settings in kinds.items():
                last = number == given.rounds - 1
                measure(Path(folder) / name.replace(" ", "-"), settings, given, figures[name], to_the_end=last)
    without, serial, interval = figures.values()
    ratios = [round(median(each.others_s) / median(without.others_s), 2) for each in (serial, interval)]
    print(json.dumps({"runs": [asdict(each) for each in figures.values()], "ratios": ratios}, indent=2))  # noqa: T201
    kept = interval.shortest_between_starts_s or 0
    return 0 if serial.most_calls_at_once == 1 and kept >= given.interval and max(ratios) <= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
