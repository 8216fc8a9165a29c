"""What this project costs, beside the least that its engine could cost and beside the program in use today.

`make bench` or `python -m tests.benchmarks`: all parts after each other, in less than half an hour. Within a part the
contenders take turns, so that whatever else the machine does hits all of them. docs/performance.md says what each part
measures, and keeps the recorded figures, which are printed beside the new ones.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from tests.benchmarks import counts, processor, recorded, throughput
from tests.benchmarks.figures import FLOOR, OURS, PEER, Figure, of_part
from tests.benchmarks.options import RECORDS, ROUNDS, Options

PARTS: Mapping[str, Callable[[Path, Options], list[Figure]]] = {
    each.PART: each.measure for each in (throughput, counts, processor)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and record if asked to."""
    given = _parser().parse_args(arguments)
    options = Options(
        rounds=given.rounds,
        records=given.records,
        pool=given.pool,
        contenders=frozenset(given.contenders.split(",")),
        latencies=tuple(int(each) for each in given.latencies.split(",")),
    )
    load, started = os.getloadavg()[0], time.monotonic()
    figures: list[Figure] = []
    for part in given.only.split(","):
        with TemporaryDirectory(prefix="nexus-bench-") as folder:
            figures += PARTS[part](Path(folder), options)
    measured_on = recorded.machine(load)
    options.say(f"{time.monotonic() - started:.0f} s in all")
    if given.json:
        document = {"measured_on": measured_on, "figures": [figure.as_json() for figure in figures]}
        print(json.dumps(document, indent=1, ensure_ascii=False))  # noqa: T201
    else:
        _print_tables(figures)
    if given.record:
        recorded.record(given.record, figures, measured_on)
    return 0


def _print_tables(figures: Sequence[Figure]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    recordings = recorded.read()
    for part in dict.fromkeys(figure.part for figure in figures):
        table = Table(title=part, title_justify="left")
        for heading in ("", "", "unit", "median", "lowest to highest", *recordings):
            table.add_column(heading)
        for figure in of_part(figures, part):
            low, high = figure.spread
            table.add_row(
                figure.name,
                figure.contender,
                figure.unit,
                recorded.number(figure.median),
                f"{recorded.number(low)} to {recorded.number(high)}",
                *(recorded.shown(recording.figure(figure)) for recording in recordings.values()),
            )
        console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", metavar="PART[,PART]", default=",".join(PARTS), type=_names_in(PARTS), help="parts")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds; medians are over these")
    parser.add_argument("--records", type=int, default=RECORDS, help="records of one run, where a part takes no fewer")
    parser.add_argument("--pool", choices=("prefork", "threads"), default="prefork", help="Celery's pool")
    everybody = (OURS, FLOOR, PEER)
    parser.add_argument(
        "--contenders", metavar="NAME[,NAME]", default=",".join(everybody), type=_names_in(everybody), help="who runs"
    )
    parser.add_argument("--latencies", default="0,50,200", help="milliseconds a call, for throughput")
    parser.add_argument("--record", metavar="NAME", help=f"keep the figures: as {recorded.LAST}, {recorded.BEFORE}, …")
    return parser


def _names_in(known: Sequence[str] | Mapping[str, object]) -> Callable[[str], str]:
    def names(text: str) -> str:
        wrong = sorted(set(text.split(",")) - set(known))
        if wrong:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(wrong)}: choose from {', '.join(known)}")
        return text

    return names


if __name__ == "__main__":
    sys.exit(main())
