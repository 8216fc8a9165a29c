"""What the database says at the end of a scenario, as frozen copies; new columns do not disturb it."""

from dataclasses import dataclass
from typing import Any

import psycopg

OPEN_ATTEMPTS = frozenset({"planned", "started", "orphaned"})
UNFINISHED = frozenset({"pending", "retrying"})


@dataclass(frozen=True)
class DeliveryFacts:
    """A delivery."""

    id: int
    session: str
    destination: str
    state: str
    error_message: str | None = None
    remote_record_id: str | None = None


@dataclass(frozen=True)
class AttemptFacts:
    """An attempt; `input_fingerprint` is that of the inputs it sent."""

    id: int
    delivery_id: int
    session: str
    destination: str
    state: str
    input_fingerprint: str | None = None
    error_message: str | None = None
    run_kind: str = "normal"


@dataclass(frozen=True)
class LogFacts:
    """A row of `upload_log`."""

    id: int
    session: str
    destination: str
    success: int
    attempt_id: int | None


@dataclass(frozen=True)
class Rows:
    """Everything that an audit reads."""

    statuses: dict[str, str]  # session → record_status, several joined by "+" if its rows disagree
    deliveries: tuple[DeliveryFacts, ...]
    attempts: tuple[AttemptFacts, ...]
    log: tuple[LogFacts, ...]
    open_runs: tuple[str, ...]  # sessions


def read_rows(url: str) -> Rows:
    """Read all of it in one snapshot."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        statuses = connection.execute(
            "SELECT session_identifier, string_agg(DISTINCT record_status, '+') FROM session_log GROUP BY 1"
        ).fetchall()
        deliveries = connection.execute(
            "SELECT session_identifier, to_jsonb(delivery) FROM delivery JOIN record ON record.id = record_id "
            "ORDER BY delivery.id"
        ).fetchall()
        attempts = connection.execute(
            "SELECT session_identifier, delivery.destination, to_jsonb(attempt), run.kind FROM attempt "
            "JOIN delivery ON delivery.id = delivery_id JOIN record ON record.id = delivery.record_id "
            "JOIN run ON run.id = run_id ORDER BY attempt.id"
        ).fetchall()
        log = connection.execute("SELECT to_jsonb(upload_log) FROM upload_log ORDER BY id").fetchall()
        runs = connection.execute(
            "SELECT session_identifier FROM run JOIN record ON record.id = record_id WHERE run.state = 'open'"
        ).fetchall()
    return Rows(
        dict(statuses),
        tuple(_delivery(*row) for row in deliveries),
        tuple(_attempt(*row) for row in attempts),
        tuple(_log(row) for (row,) in log),
        tuple(session for (session,) in runs),
    )


def _delivery(session: str, row: dict[str, Any]) -> DeliveryFacts:
    return DeliveryFacts(
        row["id"], session, row["destination"], row["state"], row["error_message"], row["remote_record_id"]
    )


def _attempt(session: str, destination: str, row: dict[str, Any], kind: str) -> AttemptFacts:
    return AttemptFacts(
        row["id"],
        row["delivery_id"],
        session,
        destination,
        row["state"],
        row["input_fingerprint"],
        row["error_message"],
        kind,
    )


def _log(row: dict[str, Any]) -> LogFacts:
    return LogFacts(row["id"], row["session_identifier"], row["destination_name"], row["success"], row["attempt_id"])
