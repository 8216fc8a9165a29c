"""How outcomes are shown: one table for people, one JSON list for programs."""

import json
from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from tests.chaos.findings import Kind
from tests.chaos.run import Outcome

LEAST_WIDTH = 110  # characters
COLUMNS = ("scenario", "records", "faults", *(kind.value for kind in Kind), "recovery_median_s", "recovery_p99_s")


def table(outcomes: Sequence[Outcome], seed: int) -> Table:
    """All outcomes; what should be 0 and is not, in red, and what a spoiled scenario does not prove, below."""
    shown = Table(title=f"chaos, seed {seed}", box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        first = column == "scenario"
        shown.add_column(column.replace("_", " "), justify="left" if first else "right", no_wrap=first)
    for outcome in outcomes:
        row = outcome.as_row()
        bad = {kind.value for kind in Kind if outcome.counts[kind]}
        bad |= {"scenario"} if outcome.spoiled else set()
        shown.add_row(*(f"[red]{row[name]}[/red]" if name in bad else str(row[name]) for name in COLUMNS))
    spoiled = [f"{outcome.scenario} is spoiled: {why}" for outcome in outcomes for why in outcome.spoiled]
    shown.caption = escape("\n".join(spoiled)) or None
    return shown


def document(outcomes: Iterable[Outcome]) -> str:
    """One JSON list, one object for each outcome."""
    return json.dumps([outcome.as_row() for outcome in outcomes])
