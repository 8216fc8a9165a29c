"""`nexus-tasks sessions`: the uses of instruments that records are built from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.markup import escape
from rich.table import Table

from nexus_tasks.builder.session_details import SessionDetails, SessionDetailsError
from nexus_tasks.cli.known import known_rows
from nexus_tasks.cli.output import CommandError, Json, coloured, console, print_json
from nexus_tasks.cli.session_files import read_session_file, samples_of
from nexus_tasks.cli.session_import import has_record, import_sessions
from nexus_tasks.cli.times import moment
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import SessionRow
from nexus_tasks.entry import current_deployment
from nexus_tasks.states import SessionStatus

cli = typer.Typer(no_args_is_help=True, help="The sessions that records are built from.")


# What is said about a session, the same for `add` and `describe`.
Title = Annotated[str | None, typer.Option(help="Title of the record.")]
Motivation = Annotated[str | None, typer.Option(help="What it was done for.")]
Experimenters = Annotated[
    list[str] | None, typer.Option("--experimenter", help="Who did it, instead of the user; may be given again.")
]
Collaborators = Annotated[list[str] | None, typer.Option("--collaborator", help="Who took part; may be given again.")]
Project = Annotated[str | None, typer.Option(help="Name of the project.")]
ProjectId = Annotated[str | None, typer.Option(help="Its identifier.")]
ProjectDivision = Annotated[str | None, typer.Option(help="The division that it belongs to.")]
ProjectGroup = Annotated[str | None, typer.Option(help="The group that it belongs to.")]
Samples = Annotated[list[str] | None, typer.Option("--sample", help="Name of a sample; may be given again.")]
SampleIds = Annotated[list[str] | None, typer.Option("--sample-id", help="Its identifier; one for each sample.")]
SampleDescriptions = Annotated[
    list[str] | None, typer.Option("--sample-description", help="What it is; one for each sample.")
]
Notes = Annotated[str | None, typer.Option(help="Anything else.")]


@cli.command()
def add(
    session: Annotated[str, typer.Argument(help="Session identifier.")],
    instrument: Annotated[str, typer.Option(help="The instrument's identifier.")],
    start: Annotated[str, typer.Option(help="ISO 8601; in the instrument's time zone if it names none.")],
    end: Annotated[str, typer.Option(help="ISO 8601; likewise.")],
    user: Annotated[str | None, typer.Option(help="Who used the instrument.")] = None,
    title: Title = None,
    motivation: Motivation = None,
    experimenter: Experimenters = None,
    collaborator: Collaborators = None,
    project: Project = None,
    project_id: ProjectId = None,
    project_division: ProjectDivision = None,
    project_group: ProjectGroup = None,
    sample: Samples = None,
    sample_id: SampleIds = None,
    sample_description: SampleDescriptions = None,
    notes: Notes = None,
) -> None:
    """Add a session that is to be built, with what is said about it."""
    said = _said(
        {"title": title, "motivation": motivation, "notes": notes},
        {"experimenters": experimenter, "collaborators": collaborator},
        {"name": project, "id": project_id, "division": project_division, "group": project_group},
        {"name": sample, "id": sample_id, "description": sample_description},
    )
    details = _changed({}, said)
    with transaction(current_deployment().engine) as connection:
        sessions.add_one_at_a_time(connection)
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
        if details:
            sessions.set_details(connection, session, details)
    console.print(f"Session {escape(session)} is to be built: run `nexus-tasks build`.")


@cli.command()
def describe(
    session: Annotated[str, typer.Argument(help="Session identifier.")],
    title: Title = None,
    motivation: Motivation = None,
    experimenter: Experimenters = None,
    collaborator: Collaborators = None,
    project: Project = None,
    project_id: ProjectId = None,
    project_division: ProjectDivision = None,
    project_group: ProjectGroup = None,
    sample: Samples = None,
    sample_id: SampleIds = None,
    sample_description: SampleDescriptions = None,
    notes: Notes = None,
) -> None:
    """Change what is said about a session; an empty text takes something away."""
    said = _said(
        {"title": title, "motivation": motivation, "notes": notes},
        {"experimenters": experimenter, "collaborators": collaborator},
        {"name": project, "id": project_id, "division": project_division, "group": project_group},
        {"name": sample, "id": sample_id, "description": sample_description},
    )
    if not said:
        raise CommandError("Say what to change, for example with --title: see `nexus-tasks sessions describe --help`.")
    with transaction(current_deployment().engine) as connection:
        [row] = known_rows(connection, [session])
        sessions.add_one_at_a_time(connection)  # what two say at once is all kept
        details = _changed(sessions.details(connection, [session]).get(session, {}), said)
        sessions.set_details(connection, session, details)
    console.print(f"Session {escape(session)} is described.")
    if has_record(row):
        _say_rebuild([session])


@cli.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .csv with a row, or a .json with an object, for each session.")],
    *,
    json: Json = False,
) -> None:
    """Add the sessions in a file, and what is said about them; the same file again changes nothing.

    Columns of a CSV are session, instrument, start, end, user, title, motivation, notes, experimenters, collaborators,
    project, project_id, project_division, project_group, samples, sample_ids and sample_descriptions; several names in
    one cell are separated by |. A JSON list holds objects with session, instrument, start, end, user, title,
    motivation, notes, experimenters, collaborators, project (name, id, division, group) and samples (name, id,
    description). A row that cannot be taken is named, and then nothing is imported.
    """
    found = read_session_file(file)
    with transaction(current_deployment().engine) as connection:
        imported = import_sessions(connection, found)
    if json:
        print_json(imported.__dict__)
        return
    console.print(
        f"{len(imported.added)} added, {len(imported.described)} described anew, {len(imported.unchanged)} unchanged."
    )
    if imported.to_rebuild:
        _say_rebuild(imported.to_rebuild)


@cli.command("list")
def list_(*, json: Json = False) -> None:
    """Show the sessions."""
    with transaction(current_deployment().engine) as connection:
        rows = sessions.sessions(connection)
    _show(rows, as_json=json)


@cli.command()
def show(session: str, *, json: Json = False) -> None:
    """Show one session."""
    with transaction(current_deployment().engine) as connection:
        rows = known_rows(connection, [session])
        details = sessions.details(connection, [session]).get(session, {})
    if json:
        print_json([{**row.__dict__, "details": details} for row in rows])
        return
    _show(rows, as_json=False)
    for name in SessionDetails.model_fields:
        if name in details:
            console.print(f"{name}: {escape(_told(details[name]))}", soft_wrap=True)


def _said(
    texts: Mapping[str, str | None],
    names: Mapping[str, list[str] | None],
    project: Mapping[str, str | None],
    samples: Mapping[str, list[str] | None],
) -> dict[str, Any]:
    """The fields of `SessionDetails` that options name; an empty option empties its field."""
    said: dict[str, Any] = {field: text for field, text in texts.items() if text is not None}
    said |= {field: [one for one in given if one.strip()] for field, given in names.items() if given}
    if parts := {part: text for part, text in project.items() if text is not None}:
        said["project"] = parts
    if any(samples.values()):
        try:
            given = samples_of({part: values or [] for part, values in samples.items()})
        except SessionDetailsError as error:
            raise CommandError(f"{_option(error.field)} {error.reason}.") from error
        said["samples"] = [sample for sample in given if any(text.strip() for text in sample.values())]
    return said


def _changed(stored: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return SessionDetails.changed(stored, said).stored()
    except SessionDetailsError as error:
        raise CommandError(f"{_option(error.field)} {error.reason}.") from error


def _option(field: str) -> str:
    """The option behind a field: `samples.2.id` comes from --sample-id."""
    parts = [part.removesuffix("s") if part != "notes" else part for part in field.split(".") if not part.isdigit()]
    return "--" + "-".join(parts).removesuffix("-name")


def _say_rebuild(identifiers: Sequence[str]) -> None:
    shown = escape(" ".join(identifiers))
    console.print(f"To bring their records up to date: `nexus-tasks build --rebuild {shown}`.", soft_wrap=True)


def _told(value: Any) -> str:
    """A detail in one line: texts as they are, parts by name."""
    if isinstance(value, list):
        return "; ".join(_told(one) for one in value)
    if isinstance(value, dict):
        parts = sorted(value.items(), key=lambda item: (item[0] != "name", item[0]))
        return ", ".join(text if part == "name" else f"{part} {text}" for part, text in parts)
    return " ".join(str(value).split())


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
