"""How outcomes are shown: one table for people, one JSON list for programs."""

import json
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from tests.chaos.findings import Kind
from tests.chaos.run import Outcome

LEAST_WIDTH = 110  # characters
COLUMNS = ("scenario", "records", "faults", *(kind.value for kind in Kind), "recovery_median_s", "recovery_p99_s")


def table(outcomes: Sequence[Outcome], seed: int) -> Table:
    """All outcomes; what should be 0 and is not, in red."""
    shown = Table(title=f"chaos, seed {seed}", box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        first = column == "scenario"
        shown.add_column(column.replace("_", " "), justify="left" if first else "right", no_wrap=first)
    for outcome in outcomes:
        row = outcome.as_row()
        bad = {kind.value for kind in Kind if outcome.counts[kind]}
        shown.add_row(*(f"[red]{row[name]}[/red]" if name in bad else str(row[name]) for name in COLUMNS))
    return shown


def document(outcomes: Iterable[Outcome]) -> str:
    """One JSON list, one object for each outcome."""
    return json.dumps([outcome.as_row() for outcome in outcomes])
