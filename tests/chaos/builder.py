"""A builder in a process of its own: hands records over while everything around it dies; `python -m` runs it.

It gives a batch again and again until it is taken, as `nexus-tasks build` from a timer would. What `export_records`
raises besides `DatabaseError` is printed after `UNEXPECTED`, for the report.
"""

import argparse
import sys
import time
from random import Random

from nexus_tasks.db.engine import DatabaseError
from nexus_tasks.delivery.export_records import RecordToExport, export_records
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import current_deployment
from tests.chaos.records import records

LARGEST_BATCH = 12  # records handed over in one call
AGAIN_AFTER_S = 0.3
UNEXPECTED = "unexpected: "


def main(arguments: list[str] | None = None) -> int:
    """Hand over all records at random moments within so many seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args(arguments)
    random = Random(options.seed)
    batches = list(_batches(options.records, random))
    moments = sorted(random.uniform(0, options.seconds) for _ in batches)
    deployment = current_deployment()
    begin = time.monotonic()
    for moment, batch in zip(moments, batches, strict=True):
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        _hand_over(batch, deployment)
    return 0


def _batches(count: int, random: Random) -> list[list[RecordToExport]]:
    left = list(records(count))
    batches = []
    while left:
        size = random.randint(1, LARGEST_BATCH)
        batches.append(left[:size])
        left = left[size:]
    return batches


def _hand_over(batch: list[RecordToExport], deployment: Deployment) -> None:
    while True:
        try:
            handed_over = export_records(batch, deployment)
        except DatabaseError as error:
            _say(f"again: {error}")
        except Exception as error:  # noqa: BLE001 - reported; a builder that is started again would try again, too
            _say(f"{UNEXPECTED}{type(error).__name__}: {error}".splitlines()[0])
        else:
            if handed_over.broker_problem:
                _say(f"later: {handed_over.broker_problem}")
            return
        time.sleep(AGAIN_AFTER_S)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
