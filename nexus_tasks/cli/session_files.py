"""Reads the files that `nexus-tasks sessions import` is given: a session per row of a CSV or entry of a JSON list.

Nothing is looked up here; what a row means for the sessions that are known is `session_import`'s business.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_tasks.builder.session_details import SessionDetails, SessionDetailsError, writable_line
from nexus_tasks.cli.output import CommandError

SEPARATOR = "|"  # between several names in one cell of a CSV: neither , nor ; which part the cells

# the column of a CSV → the field of `SessionDetails`
TEXTS = {"title": "title", "motivation": "motivation", "notes": "notes"}
NAMES = {"experimenters": "experimenters", "collaborators": "collaborators"}
PROJECT = {"project": "name", "project_id": "id", "project_division": "division", "project_group": "group"}
SAMPLES = {"samples": "name", "sample_ids": "id", "sample_descriptions": "description"}

EVENTS = ("session", "instrument", "start", "end", "user")
COLUMNS = (*EVENTS, *TEXTS, *NAMES, *PROJECT, *SAMPLES)
FIELDS = (*EVENTS, *SessionDetails.model_fields)


@dataclass(frozen=True)
class SessionInFile:
    """One row. What it does not say is None, or not in `said`."""

    place: str  # as in "sessions.csv, row 3"
    session: str
    instrument: str | None
    start: str | None
    end: str | None
    user: str | None
    said: Mapping[str, Any]  # fields of `SessionDetails`
    columns: Mapping[str, str] = field(default_factory=dict)  # of a CSV: the fields' columns

    def wrong(self, name: str, reason: str) -> CommandError:
        """What to raise for the column or field `name`."""
        return _wrong(self.place, self.columns.get(name, name), reason)

    def wrong_detail(self, error: SessionDetailsError) -> CommandError:
        """The same for one of the details: in a CSV, the third sample's id stands in the column `sample_ids`."""
        parts = [part for part in error.field.split(".") if not (self.columns and part.isdigit())]
        return self.wrong(".".join(parts), error.reason)


def read_session_file(path: Path) -> list[SessionInFile]:
    """The sessions in a CSV or JSON file, by its extension. Raises `CommandError` that names file, row and column."""
    read = {".csv": _read_csv, ".json": _read_json}.get(path.suffix.lower())
    if read is None:
        raise CommandError(f"{path.name} is neither a .csv nor a .json file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CommandError(f"The file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path.name} is not in UTF-8: save it as “CSV UTF-8”, or as UTF-8.") from error
    found = read(path.name, text)
    places: dict[str, str] = {}
    for row in found:
        if row.session in places:
            raise row.wrong("session", f"{row.session} stands in {places[row.session]} already")
        places[row.session] = row.place
    return found


def samples_of(parts: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Samples from their names, ids and descriptions, each a list in the same order. Raises `SessionDetailsError`.

    A list may be left out, but not be of another length: nobody could say which id belongs to which sample.
    """
    given = {part: values for part, values in parts.items() if values}
    count = max(map(len, given.values()), default=0)
    for part, values in given.items():
        if len(values) != count:
            raise SessionDetailsError(f"samples.{part}", f"must be given for each of the {count} samples, or for none")
    return [{part: values[number] for part, values in given.items()} for number in range(count)]


def _read_csv(name: str, text: str) -> list[SessionInFile]:
    first_line = text.partition("\n")[0]
    # spreadsheets write ; where , is the decimal sign
    delimiter = ";" if first_line.count(";") > first_line.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise CommandError(f"{name} is no CSV file that can be read: line {reader.line_num}: {error}.") from error
    if not rows:
        raise CommandError(f"{name} is empty: its first row must name columns, {', '.join(COLUMNS)}.")
    header = [column.lower() for column in rows[0]]
    for column in header:
        if column not in COLUMNS:
            raise _wrong(f"{name}, row 1", column, f"is not known; there are {', '.join(COLUMNS)}")
        if header.count(column) > 1:
            raise _wrong(f"{name}, row 1", column, "stands there twice")
    found = []
    for number, cells in enumerate(rows[1:], start=2):
        place = f"{name}, row {number}"
        if not any(cells):
            continue
        if len(cells) > len(header):
            raise CommandError(f"{place} has {len(cells)} cells, but there are {len(header)} columns.")
        said = {column: cell for column, cell in zip(header, cells, strict=False) if cell}
        found.append(_from_csv(place, said))
    return found


def _from_csv(place: str, cells: Mapping[str, str]) -> SessionInFile:
    columns = {f"project.{part}": column for column, part in PROJECT.items()}
    columns |= {f"samples.{part}": column for column, part in SAMPLES.items()}
    lists = {
        column: [part.strip() for part in cell.split(SEPARATOR)]
        for column, cell in cells.items()
        if column in NAMES or column in SAMPLES
    }
    said: dict[str, Any] = {column: cells[column] for column in TEXTS if column in cells}
    said |= {column: lists[column] for column in NAMES if column in lists}
    if project := {part: cells[column] for column, part in PROJECT.items() if column in cells}:
        said["project"] = project
    try:
        if samples := samples_of({part: lists.get(column, []) for column, part in SAMPLES.items()}):
            said["samples"] = samples
    except SessionDetailsError as error:
        raise _wrong(place, columns[error.field], error.reason) from error
    return _session(place, cells, said, columns)


def _read_json(name: str, text: str) -> list[SessionInFile]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{name} is not JSON: {error}.") from error
    if not isinstance(entries, list):
        raise CommandError(f"{name} must be a list of sessions: [{{…}}, {{…}}].")
    found = []
    for number, entry in enumerate(entries, start=1):
        place = f"{name}, row {number}"
        if not isinstance(entry, dict):
            raise CommandError(f"{place} must be an object: {{…}}.")
        for field_ in entry:
            if field_ not in FIELDS:
                raise _wrong(place, field_, f"is not known; there are {', '.join(FIELDS)}")
        said = {field_: value for field_, value in entry.items() if field_ not in EVENTS}
        found.append(_session(place, {key: entry[key] for key in EVENTS if entry.get(key) is not None}, said, {}))
    return found


def _session(
    place: str, events: Mapping[str, Any], said: Mapping[str, Any], columns: Mapping[str, str]
) -> SessionInFile:
    texts: dict[str, str] = {}
    for name in EVENTS:
        value = events.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise _wrong(place, name, "must be a text")
        try:
            texts[name] = writable_line(value)
        except ValueError as error:
            raise _wrong(place, name, str(error)) from error
    if "session" not in texts:
        raise _wrong(place, "session", "is missing: it names the session")
    return SessionInFile(
        place,
        texts["session"],
        texts.get("instrument"),
        texts.get("start"),
        texts.get("end"),
        texts.get("user"),
        said,
        columns,
    )


def _wrong(place: str, column: str, reason: str) -> CommandError:
    return CommandError(f"{place}, column {column}: {reason}. Nothing was imported.")
