"""How a backlog behaves while CDCS is away, beside the same backlog with CDCS disabled.

`python -m tests.benchmarks.cdcs_away`: two runs after each other on the same machine, default settings, real processes.
Printed are seconds until both notebooks hold every record, the probes that CDCS got and the pauses it had, the workers'
memory at a tenth of the work and at its end, and the most messages that the broker held beside what the windows allow.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import redis
from sqlalchemy import text

from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.export_records import export_records
from nexus_tasks.deployment import Deployment
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.services import client
from tests.benchmarks.running import running
from tests.chaos.records import records

NOTEBOOKS = ("elabftw", "labarchives")
POLL_S = 0.5
LONGEST_S = 1800
WORKERS: tuple[tuple[str, ...], ...] = ((), ())  # two, each for all queues
CONCURRENCY = 4
AWAY = {"kind": "status", "status": 503}


@dataclass(frozen=True)
class Figures:
    """What one run showed."""

    cdcs: str
    records: int
    notebooks_s: float
    cdcs_calls_after_first_pause: int
    cdcs_pauses: int
    worker_mb_at_a_tenth: float
    worker_mb_at_the_end: float
    most_messages: int
    windows: int


def measure(folder: Path, count: int, *, with_cdcs: bool) -> Figures:
    """Hand over `count` records with CDCS away, or disabled, and watch until both notebooks hold them all."""
    settings = {} if with_cdcs else {"NX_CDCS_URL": "", "NX_CDCS_TOKEN": ""}
    with running(folder, settings, workers=WORKERS, concurrency=CONCURRENCY) as this:
        if with_cdcs:
            client.set_faults(this.addresses["cdcs"], [AWAY])
        return _watch(this.deployment, this.workers, this.addresses["cdcs"], count, with_cdcs=with_cdcs)


def _watch(
    deployment: Deployment, workers: list[ManagedProcess], cdcs_url: str, count: int, *, with_cdcs: bool
) -> Figures:
    broker = redis.Redis.from_url(deployment.settings.broker_url)
    started = time.monotonic()
    export_records(records(count), deployment)
    at_a_tenth, most_messages, first_pause_calls, pauses = 0.0, 0, None, set()
    while True:
        with transaction(deployment.engine) as connection:
            done = connection.execute(
                text("SELECT count(*) FROM delivery WHERE destination = ANY(:names) AND state = 'succeeded'"),
                {"names": list(NOTEBOOKS)},
            ).scalar_one()
            opened_at = connection.execute(text("SELECT opened_at FROM destination WHERE name = 'cdcs'")).scalar()
            windows = connection.execute(text("SELECT sum(max_in_flight) FROM destination")).scalar_one()
        if opened_at is not None:
            pauses.add(opened_at)
            if first_pause_calls is None:
                time.sleep(POLL_S)  # what was under way when it paused
                first_pause_calls = client.calls(cdcs_url)["total"]
        waiting = [broker.llen(name) for name in broker.keys("export.*") if broker.type(name) == b"list"]
        most_messages = max(most_messages, sum(waiting))
        if not at_a_tenth and done >= len(NOTEBOOKS) * count / 10:
            at_a_tenth = _memory_mb(workers)
        if done == len(NOTEBOOKS) * count:
            break
        if time.monotonic() - started > LONGEST_S:
            raise TimeoutError(f"only {done} of {len(NOTEBOOKS) * count} after {LONGEST_S} s")
        time.sleep(POLL_S)
    return Figures(
        cdcs="away" if with_cdcs else "disabled",
        records=count,
        notebooks_s=round(time.monotonic() - started, 1),
        cdcs_calls_after_first_pause=client.calls(cdcs_url)["total"] - (first_pause_calls or 0),
        cdcs_pauses=len(pauses),
        worker_mb_at_a_tenth=round(at_a_tenth, 1),
        worker_mb_at_the_end=round(_memory_mb(workers), 1),
        most_messages=most_messages,
        windows=int(windows),
    )


def _memory_mb(workers: list[ManagedProcess]) -> float:
    total = 0
    for worker in workers:
        parent = psutil.Process(worker.pid)
        total += sum(process.memory_info().rss for process in [parent, *parent.children(recursive=True)])
    return total / 2**20


def main() -> int:
    """Run both, and say whether what is promised holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cdcs_away", description=__doc__)
    parser.add_argument("--records", type=int, default=1000)
    count = parser.parse_args().records
    with TemporaryDirectory(prefix="nexus-backlog-") as folder:
        disabled = measure(Path(folder) / "disabled", count, with_cdcs=False)
        away = measure(Path(folder) / "away", count, with_cdcs=True)
    ratio = away.notebooks_s / disabled.notebooks_s
    print(json.dumps({"disabled": asdict(disabled), "away": asdict(away), "ratio": round(ratio, 2)}, indent=2))  # noqa: T201
    return 0 if ratio <= 1.2 and away.cdcs_calls_after_first_pause <= away.cdcs_pauses else 1


if __name__ == "__main__":
    sys.exit(main())
