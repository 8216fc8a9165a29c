"""The columns that several statements read, and how they become the frozen copies of `rows`."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from sqlalchemy import RowMapping

from nexus_tasks.db.rows import Breaker, DeliveryRow, RecordRow
from nexus_tasks.states import DeliveryState, Strategy

UNRESOLVED_UNTIL = "unresolved_until"  # in what is known of a step: its creating call may take effect until then
ANY_INTENT = f"'$.*.{UNRESOLVED_UNTIL}'"
QUOTED = "quoted"  # marks an activity whose paths are percent-quoted

Found = RowMapping | Mapping[str, Any]  # a row by the names of its columns

BREAKER = ", ".join(
    f"destination.{name}"
    for name in ("paused", "failing_records", "opened_at", "open_until", "open_seconds", "reason", "recovered_at")
)

_OF_DELIVERY = {
    name: f"delivery.{name}"
    for name in (
        "id",
        "record_id",
        "destination",
        "priority",
        "depends_on",
        "requires",
        "state",
        "updates",
        "waits_for",
        "failures",
        "deaths",
        "next_attempt_at",
        "error_message",
        "input_fingerprint",
        "remote_record_id",
        "remote_record_url",
        "succeeded_at",
    )
} | {"unresolved": f"jsonb_path_exists(delivery.remote, {ANY_INTENT})"}
DELIVERY = ", ".join(f"{value} AS {name}" for name, value in _OF_DELIVERY.items())
_PAIRS = ", ".join(f"'{name}', {value}" for name, value in _OF_DELIVERY.items())
DELIVERY_JSON = f"jsonb_build_object({_PAIRS})"
_MOMENTS = ("next_attempt_at", "succeeded_at")


def breaker(found: Found) -> Breaker:
    """From `BREAKER`; a destination without a row is one that nothing is known against."""
    if found["failing_records"] is None:
        return Breaker()
    return Breaker(
        found["paused"],
        tuple(found["failing_records"]),
        found["opened_at"],
        found["open_until"],
        found["open_seconds"],
        found["reason"],
        found["recovered_at"],
    )


def delivery_row(found: Found) -> DeliveryRow:
    """From `DELIVERY`."""
    columns = {name: found[name] for name in _OF_DELIVERY}
    columns["state"] = DeliveryState(columns["state"])
    columns["depends_on"] = tuple(columns["depends_on"])
    columns["requires"] = tuple(columns["requires"])
    return DeliveryRow(**columns)


def delivery_rows_of_json(found: Sequence[Mapping[str, Any]]) -> tuple[DeliveryRow, ...]:
    """From an array of `DELIVERY_JSON`."""
    return tuple(
        delivery_row({**each, **{name: each[name] and datetime.fromisoformat(each[name]) for name in _MOMENTS}})
        for each in found
    )


def record_row(found: Found) -> RecordRow:
    """From `record.*`."""
    columns = {name: found[name] for name in RecordRow.__dataclass_fields__}
    columns["strategy"] = Strategy(columns["strategy"])
    columns["activities"] = [_activity_as_named(activity) for activity in columns["activities"]]
    return RecordRow(**columns)


def activity_as_stored(activity: dict[str, Any]) -> dict[str, Any]:
    """The activity as JSON can hold it: its paths percent-quoted byte for byte where one of them is not text."""
    try:
        "".join(filter(None, [*activity["files"], *activity["previews"]])).encode()
    except UnicodeEncodeError:
        return {**_with_each_path(activity, lambda path: quote(os.fsencode(path), safe="/")), QUOTED: True}
    return activity


def _activity_as_named(activity: dict[str, Any]) -> dict[str, Any]:
    if QUOTED not in activity:
        return activity
    return _with_each_path(activity, lambda path: os.fsdecode(unquote_to_bytes(path)))


def _with_each_path(activity: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {part: [path and change(path) for path in activity[part]] for part in ("files", "previews")}
