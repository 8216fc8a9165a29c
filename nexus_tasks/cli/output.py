"""How the commands speak: tables and sentences for people, one JSON document for programs."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nexus_tasks.monitoring.status import RUNNING, SessionView
from nexus_tasks.states import DeliveryState, SessionStatus

console = Console()
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

STYLES = {
    DeliveryState.SUCCEEDED: "green",
    DeliveryState.FAILED: "red",
    DeliveryState.WAITING: "yellow",
    DeliveryState.SKIPPED: "dim",
    DeliveryState.PENDING: "cyan",
    RUNNING: "bold cyan",
    SessionStatus.COMPLETED: "green",
    SessionStatus.ERROR: "red",
    SessionStatus.NO_FILES_FOUND: "yellow",
    SessionStatus.BUILT_NOT_EXPORTED: "yellow",
    SessionStatus.TO_BE_BUILT: "cyan",
}


class CommandError(Exception):
    """What was asked for cannot be done; the message is one line that says what to do instead."""


def print_json(document: Any) -> None:
    """Print the one document of a `--json` command."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))  # noqa: T201 - what was asked for


def coloured(state: str) -> str:
    """A state in its colour, as Rich markup."""
    style = STYLES.get(state)
    return f"[{style}]{state}[/]" if style else state


def sessions_table(views: Sequence[SessionView], *, title: str | None = None) -> Table:
    """Session × destination, with links and times."""
    table = Table(title=title, title_justify="left", title_style="bold", show_lines=False, pad_edge=False)
    table.add_column("session", overflow="fold", min_width=12)
    table.add_column("status", no_wrap=True)
    table.add_column("destination", no_wrap=True)
    table.add_column("delivery", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("link, or what is wrong", overflow="fold")
    for view in views:
        first = [escape(view.session_identifier), coloured(view.record_status)]
        for delivery in view.deliveries:
            told = delivery.record_url or delivery.error_message or ""
            if delivery.next_attempt_at is not None:
                told = f"{told} (next try {delivery.next_attempt_at.astimezone():%H:%M:%S})"
            after = _seconds(view.handed_over_at, delivery.succeeded_at)
            table.add_row(*first, delivery.destination, coloured(delivery.state), after, escape(told))
            first = ["", ""]
        if not view.deliveries:
            table.add_row(*first, "", "", "", "")
        table.add_section()
    return table


def _seconds(start: datetime | None, end: datetime | None) -> str:
    return f"{(end - start).total_seconds():.1f} s" if start and end else ""
