"""What LabArchives's pace costs the others, with four worker processes.

`python -m tests.benchmarks.pacing`: the same records three times on the same machine: without LabArchives, with its
calls one after the other (the default), with an interval between them. LabArchives answers after `--latency` seconds, as
a service on the internet does. Printed are seconds until CDCS and eLabFTW hold every record and until LabArchives does,
and what LabArchives saw: most calls at once, and the shortest time from the start of one call to the start of the next.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.enqueue import export_records
from nexus_tasks.sandbox.services import client
from tests.benchmarks.running import Running, running
from tests.chaos.records import records

PROCESSES = 4
WINDOW = 8  # records on their way to LabArchives, where its calls keep an interval
POLL_S = 0.1
LONGEST_S = 900
WITHOUT = {f"NX_LABARCHIVES_{name}": "" for name in ("URL", "ACCESS_KEY_ID", "ACCESS_PASSWORD", "USER_ID")}


@dataclass(frozen=True)
class Figures:
    """What one run showed."""

    labarchives: str
    records: int
    others_s: float
    labarchives_s: float | None
    most_calls_at_once: int
    shortest_between_starts_s: float | None


def measure(folder: Path, name: str, settings: dict[str, str], count: int, latency: float) -> Figures:
    """Hand over `count` records and watch until every destination holds them."""
    with running(folder, settings, workers=1, concurrency=PROCESSES) as this:
        client.set_faults(this.addresses["labarchives"], [{"kind": "latency", "seconds": latency}])
        started = time.monotonic()
        export_records(records(count), this.deployment)
        others_s = _wait(this, ("cdcs", "elabftw"), count, started)
        labarchives_s = _wait(this, ("labarchives",), count, started) if settings is not WITHOUT else None
        seen = client.calls(this.addresses["labarchives"])
    between = [later["started"] - earlier["started"] for earlier, later in pairwise(seen["recent"])]
    return Figures(
        name, count, others_s, labarchives_s, seen["max_concurrent"], round(min(between), 3) if between else None
    )


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
    """Run all three, and say whether what is promised holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pacing", description=__doc__)
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds until LabArchives answers")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two calls to it")
    given = parser.parse_args()
    paced = {"NX_WINDOWS": f"labarchives={WINDOW}", "NX_INTERVALS": f"labarchives={given.interval}"}
    runs = {"left out": WITHOUT, "one after the other": {}, f"every {given.interval:g} s": paced}
    with TemporaryDirectory(prefix="nexus-pacing-") as folder:
        without, serial, interval = (
            measure(Path(folder) / str(number), name, settings, given.records, given.latency)
            for number, (name, settings) in enumerate(runs.items())
        )
    ratios = [round(each.others_s / without.others_s, 2) for each in (serial, interval)]
    print(json.dumps({"runs": [asdict(each) for each in (without, serial, interval)], "ratios": ratios}, indent=2))  # noqa: T201
    kept = interval.shortest_between_starts_s or 0
    return 0 if serial.most_calls_at_once == 1 and kept >= given.interval and max(ratios) <= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
