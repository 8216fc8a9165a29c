"""The command: runs the scenarios one after the other, shows one table, and fails when anything is wrong."""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from nexus_tasks.sandbox.process_error import ProcessError
from tests.chaos.run import REPORT, Outcome, Size, run
from tests.chaos.scenario import Scenario
from tests.chaos.scenarios import QUICK, SCENARIOS, named
from tests.chaos.table import LEAST_WIDTH, document, table

WHOLE = Size(records=300)
SHORT = Size(records=20, share=0.12)
SHORT_SEED = 20260302
EXPLAINED = 10  # records with findings that are shown; all of them are in the report file
SAY_EVERY_S = 5.0  # an unchanged kind of progress

PROGRESS = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """0 only when nothing was lost, doubled, wrong, or stuck anywhere, and every scenario has done its work."""
    options = _options(arguments)
    seed = options.seed if options.seed is not None else SHORT_SEED if options.quick else secrets.randbelow(10**6)
    PROGRESS.print(f"seed {seed}")
    size = SHORT if options.quick else WHOLE
    size = Size(options.records or size.records, size.share)
    chosen = named(options.scenario or (list(QUICK) if options.quick else [each.name for each in SCENARIOS]))
    parent = options.dir or Path(tempfile.mkdtemp(prefix="nexus-tasks-chaos-"))
    try:
        outcomes = [_run(scenario, parent / scenario.name, seed, size) for scenario in chosen]
    except ProcessError as error:
        PROGRESS.print(f"The harness cannot go on: {error}")
        return 2
    except KeyboardInterrupt:
        PROGRESS.print("interrupted; everything was stopped")
        return 130
    if options.json:
        sys.stdout.write(document(outcomes) + "\n")
    else:
        Console(width=max(LEAST_WIDTH, PROGRESS.width)).print(table(outcomes, seed))
    clean = all(outcome.clean for outcome in outcomes)
    if clean and not options.dir:
        parent.rmdir()
    return 0 if clean else 1


class _Progress:
    """Says what one scenario does, on standard error; what only differs in its numbers every few seconds."""

    def __init__(self, scenario: str) -> None:
        self._scenario = scenario
        self._begin = time.monotonic()
        self._said = ""
        self._said_at = 0.0

    def say(self, line: str) -> None:
        now = time.monotonic()
        what, _, _ = line.partition(":")
        if what != self._said or now - self._said_at > SAY_EVERY_S:
            self._said, self._said_at = what, now
            PROGRESS.print(f"{self._scenario} {now - self._begin:5.1f} s  {line}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeats the random moments of an earlier run")
    parser.add_argument("--json", action="store_true", help="one JSON list on standard output")
    parser.add_argument("--records", type=int, help=f"records a scenario (default {WHOLE.records})")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--dir", type=Path, help="where the scenarios' folders go; those with findings stay")
    parser.add_argument("--quick", action="store_true", help=f"a short version with a fixed seed: {', '.join(QUICK)}")
    return parser.parse_args(arguments)


def _run(scenario: Scenario, folder: Path, seed: int, size: Size) -> Outcome:
    outcome = run(scenario, folder, seed, size, _Progress(scenario.name).say)
    wrong = ", ".join(f"{number} {kind}" for kind, number in outcome.counts.items() if number)
    told = wrong or ("clean" if outcome.clean else "spoiled")
    PROGRESS.print(f"{scenario.name} {outcome.seconds:5.1f} s  {told}, after {outcome.faults} faults")
    for line in outcome.spoiled:
        PROGRESS.print(f"{scenario.name}: spoiled: {line}")
    for line in outcome.odd:
        PROGRESS.print(f"{scenario.name}: odd: {line}")
    for paragraph in outcome.explanation[:EXPLAINED]:
        PROGRESS.print(paragraph)
    if not outcome.clean:
        PROGRESS.print(f"{scenario.name}: {len(outcome.explanation)} in all, see {folder / REPORT}")
    return outcome


if __name__ == "__main__":
    sys.exit(main())
