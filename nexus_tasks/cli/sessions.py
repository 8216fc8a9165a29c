"""`nexus-tasks sessions`: the uses of instruments that records are built from."""

from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.markup import escape
from rich.table import Table

from nexus_tasks.cli.output import CommandError, Json, coloured, console, print_json
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import SessionRow
from nexus_tasks.deployment import Deployment
from nexus_tasks.states import SessionStatus

cli = typer.Typer(no_args_is_help=True, help="The sessions that records are built from.")


def moment(text: str, zone: ZoneInfo) -> datetime:
    """A time from the command line: ISO 8601, in `zone` if it names none. Raises `CommandError`."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{text!r} is not a time: write it like 2026-01-31T14:30:00+01:00.") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=zone)


def check_known(deployment: Deployment, identifiers: list[str] | None) -> list[str] | None:
    """The identifiers, None when none were given; raises `CommandError` for one that is not known."""
    if not identifiers:
        return None
    with transaction(deployment.engine) as connection:
        known = {row.session_identifier for row in sessions.sessions(connection, identifiers)}
    for identifier in identifiers:
        if identifier not in known:
            raise CommandError(f"There is no session {identifier}: see `nexus-tasks sessions list`.")
    return identifiers


@cli.command()
def add(
    session: Annotated[str, typer.Argument(help="Session identifier.")],
    instrument: Annotated[str, typer.Option(help="The instrument's identifier.")],
    start: Annotated[str, typer.Option(help="ISO 8601; in the instrument's time zone if it names none.")],
    end: Annotated[str, typer.Option(help="ISO 8601; likewise.")],
    user: Annotated[str | None, typer.Option(help="Who used the instrument.")] = None,
) -> None:
    """Add a session that is to be built."""
    with transaction(Deployment.current().engine) as connection:
        known = sessions.get_instrument(connection, instrument)
        if known is None:
            raise CommandError(f"There is no instrument {instrument}: add it with `nexus-tasks instruments add`.")
        if sessions.sessions(connection, [session]):
            raise CommandError(f"There is a session {session} already: see `nexus-tasks sessions show`.")
        zone = ZoneInfo(known.timezone)
        row = SessionRow(session, instrument, moment(start, zone), moment(end, zone), user, SessionStatus.TO_BE_BUILT)
        if row.start is not None and row.end is not None and row.end <= row.start:
            raise CommandError(f"Session {session} ends before it starts.")
        sessions.add_session(connection, row)
    console.print(f"Session {escape(session)} is to be built: run `nexus-tasks build`.")


@cli.command("list")
def list_(*, json: Json = False) -> None:
    """Show the sessions."""
    with transaction(Deployment.current().engine) as connection:
        rows = sessions.sessions(connection)
    _show(rows, as_json=json)


@cli.command()
def show(session: str, *, json: Json = False) -> None:
    """Show one session."""
    with transaction(Deployment.current().engine) as connection:
        rows = sessions.sessions(connection, [session])
    if not rows:
        raise CommandError(f"There is no session {session}: see `nexus-tasks sessions list`.")
    _show(rows, as_json=json)


def _show(rows: list[SessionRow], *, as_json: bool) -> None:
    if as_json:
        print_json([row.__dict__ for row in rows])
        return
    table = Table("session", "instrument", "user", "start", "end", "status", pad_edge=False)
    for row in rows:
        times = (f"{at:%Y-%m-%d %H:%M:%S%z}" if at else "" for at in (row.start, row.end))
        names = (escape(cell or "") for cell in (row.session_identifier, row.instrument_pid, row.user))
        table.add_row(*names, *times, coloured(row.status))
    console.print(table)
