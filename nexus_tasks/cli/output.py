"""How the commands speak: tables and sentences for people, one JSON document for programs."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nexus_tasks.plain_error import PlainError
from nexus_tasks.states import RUNNING, DeliveryState, SessionStatus

if TYPE_CHECKING:
    from nexus_tasks.monitoring.status import DeliveryStatus, SessionView

console = Console()
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

STYLES = {
    DeliveryState.SUCCEEDED: "green",
    DeliveryState.FAILED: "red",
    DeliveryState.RETRYING: "yellow",
    DeliveryState.SKIPPED: "dim",
    DeliveryState.PENDING: "cyan",
    RUNNING: "bold cyan",
    SessionStatus.COMPLETED: "green",
    SessionStatus.ERROR: "red",
    SessionStatus.NO_FILES_FOUND: "yellow",
    SessionStatus.BUILT_NOT_EXPORTED: "yellow",
    SessionStatus.TO_BE_BUILT: "cyan",
}


class CommandError(PlainError):
    """What was asked for cannot be done; the message is one line that says what to do instead."""


def print_json(document: Any) -> None:
    """Print the one document of a `--json` command."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))  # noqa: T201 - what was asked for


def print_warnings(sentences: Iterable[str]) -> None:
    """Say what an operator should look at, on standard error, so that `--json` stays one document."""
    for sentence in sentences:
        errors.print(sentence, style="yellow", markup=False, soft_wrap=True)


def coloured(state: str) -> str:
    """A state in its colour, as Rich markup."""
    style = STYLES.get(state)
    return f"[{style}]{state}[/]" if style else state


def sessions_table(views: "Sequence[SessionView]") -> Table:
    """Session × destination, with links and times."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("session", overflow="fold", min_width=12)
    table.add_column("status", no_wrap=True)
    table.add_column("destination", no_wrap=True)
    table.add_column("delivery", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("link, or what is wrong", overflow="fold")
    for view in views:
        heads = [
            (escape(view.session_identifier), coloured(view.record_status)),
            (f"[dim]{escape(view.instrument_pid)}[/]", ""),
        ]
        rows = [_cells(view, delivery) for delivery in view.deliveries]
        if (told := _building(view)) is not None:
            rows.append(("", "", "", escape(told)))
        for head, cells in zip_longest(heads, rows):
            table.add_row(*(head or ("", "")), *(cells or ()))
        table.add_row()
    return table


def _building(view: "SessionView") -> str | None:
    """What is to be said of the session's record before it is there, or while it is made again."""
    build = view.build
    if build is None:
        return None
    if build.under_way:
        return "is being built"
    if not build.asked:
        return build.problem
    if build.not_before is None:
        return "a worker is to build it"
    return f"{build.problem or 'waits'} (looked at again {build.not_before.astimezone():%H:%M:%S})"


def _cells(view: "SessionView", delivery: "DeliveryStatus") -> tuple[str, str, str, str]:
    told = delivery.record_url or delivery.error_message or ""
    if delivery.next_attempt_at is not None:
        told = f"{told} (next try {delivery.next_attempt_at.astimezone():%H:%M:%S})"
    shown = f"[link={told}]{escape(told)}[/link]" if delivery.record_url and "]" not in told else escape(told)
    return delivery.destination, coloured(delivery.state), _seconds(view.handed_over_at, delivery.succeeded_at), shown


def _seconds(start: datetime | None, end: datetime | None) -> str:
    return f"{(end - start).total_seconds():.1f} s" if start and end else ""
