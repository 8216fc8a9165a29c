"""The statements about destinations: what they have in flight, circuit breaker, rate limit, and shared objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Engine, text

from nexus_tasks.db.columns import BREAKER, breaker
from nexus_tasks.db.engine import execute
from nexus_tasks.db.rows import Breaker, DestinationRow

_ENSURE = text("""
    INSERT INTO destination (name, max_in_flight)
    SELECT * FROM unnest(CAST(:names AS text[]), CAST(:limits AS int[])) ON CONFLICT DO NOTHING
""")
_SET_MAX_IN_FLIGHT = text("""
    UPDATE destination SET max_in_flight = wanted.max_in_flight
    FROM unnest(CAST(:names AS text[]), CAST(:limits AS int[])) AS wanted (name, max_in_flight)
    WHERE destination.name = wanted.name AND destination.max_in_flight <> wanted.max_in_flight
""")
_ALL = text(f"""
    SELECT destination.name, destination.max_in_flight, coalesce(in_flight.count, 0) AS in_flight, {BREAKER}
    FROM destination LEFT JOIN (
        SELECT attempt.destination, count(*) FROM attempt
        WHERE attempt.state IN ('planned', 'started', 'orphaned') GROUP BY attempt.destination
    ) AS in_flight ON in_flight.destination = destination.name
    ORDER BY destination.name
""")
_BREAKER = text(f"SELECT {BREAKER} FROM destination WHERE name = :name")
_LOCK_BREAKER = text(f"SELECT {BREAKER} FROM destination WHERE name = :name FOR NO KEY UPDATE")
_SET_BREAKER = text("""
    UPDATE destination SET paused = :paused, failing_records = CAST(:failing_records AS int[]), opened_at = :opened_at,
        open_until = :open_until, open_seconds = :open_seconds, reason = :reason, recovered_at = :recovered_at
    WHERE name = :name
""")
_TAKE_TOKEN = text("""
    UPDATE destination SET rate_limit_token = :token, rate_limit_until = clock_timestamp() + :lasting
    WHERE name = :name
        AND (rate_limit_token IS NULL OR rate_limit_token = :token OR rate_limit_until <= clock_timestamp())
    RETURNING last_call_at, clock_timestamp() AS now
""")
_HAS_ROW = text("SELECT name FROM destination WHERE name = :name")
_RELEASE_TOKEN = text("""
    UPDATE destination SET rate_limit_token = NULL, rate_limit_until = NULL,
        last_call_at = greatest(last_call_at, clock_timestamp() - CAST(:ago AS interval))
    WHERE name = :name AND rate_limit_token = :token
    RETURNING name
""")
_LOCK_SHARED = text(
    "SELECT remote -> :step AS known, now() AS now FROM destination WHERE name = :name FOR NO KEY UPDATE"
)
_SET_SHARED = text("""
    UPDATE destination SET remote = remote || jsonb_build_object(CAST(:step AS text), CAST(:known AS jsonb))
    WHERE name = :name
""")


@dataclass(frozen=True)
class RateLimitToken:
    """The token was taken: when the last call was made, and PostgreSQL's clock at this moment."""

    last_call_at: datetime | None
    now: datetime


def ensure(connection: Connection, max_in_flight: Mapping[str, int]) -> None:
    """Have a row for each destination; one that is there keeps its limit."""
    connection.execute(_ENSURE, _limits(max_in_flight))


def set_max_in_flight(connection: Connection, max_in_flight: Mapping[str, int]) -> None:
    """Give the destinations that have a row the limit that is set for them now."""
    connection.execute(_SET_MAX_IN_FLIGHT, _limits(max_in_flight))


def _limits(max_in_flight: Mapping[str, int]) -> dict[str, Any]:
    names = sorted(max_in_flight)
    return {"names": names, "limits": [max_in_flight[name] for name in names]}


def all_rows(connection: Connection) -> list[DestinationRow]:
    """Every destination that a record was ever sent to."""
    return [
        DestinationRow(row["name"], row["max_in_flight"], row["in_flight"], breaker(row))
        for row in connection.execute(_ALL).mappings()
    ]


def is_known(engine: Engine, name: str) -> bool:
    """Whether a record was ever sent to the destination."""
    return execute(engine, _HAS_ROW, {"name": name}) is not None


# --- circuit breaker


def breaker_of(connection: Connection, name: str) -> Breaker:
    """The destination's circuit breaker."""
    row = connection.execute(_BREAKER, {"name": name}).mappings().one_or_none()
    return Breaker() if row is None else breaker(row)


def lock_breaker(connection: Connection, name: str) -> Breaker:
    """As `breaker_of`, locked until the end of the transaction: failures are counted one after the other."""
    row = connection.execute(_LOCK_BREAKER, {"name": name}).mappings().one_or_none()
    return Breaker() if row is None else breaker(row)


def set_breaker(connection: Connection, name: str, value: Breaker) -> None:
    """Write the destination's circuit breaker."""
    connection.execute(_SET_BREAKER, {**vars(value), "failing_records": list(value.failing_records), "name": name})


# --- rate limit


def take_rate_limit_token(engine: Engine, name: str, token: UUID, lasting: timedelta) -> RateLimitToken | None:
    """Become, or stay, the only one that calls the destination, for so long; None while somebody else is."""
    row = execute(engine, _TAKE_TOKEN, {"name": name, "token": token, "lasting": lasting})
    return None if row is None else RateLimitToken(row["last_call_at"], row["now"])


def release_rate_limit_token(engine: Engine, name: str, token: UUID, last_call: timedelta | None) -> None:
    """Let others call the destination; the last call began `last_call` ago, None if none was made."""
    # without a call the moment of the last one stays: greatest() passes over the null
    execute(engine, _RELEASE_TOKEN, {"name": name, "token": token, "ago": last_call})


# --- objects that several records share


def lock_shared(connection: Connection, name: str, step: str) -> tuple[dict[str, Any], datetime]:
    """What is known of a step's shared object, and PostgreSQL's clock; the destination is locked."""
    row = connection.execute(_LOCK_SHARED, {"name": name, "step": step}).one()
    return dict(row.known or {}), row.now


def set_shared(connection: Connection, name: str, step: str, known: Mapping[str, Any]) -> None:
    """Keep what is known of a step's shared object."""
    connection.execute(_SET_SHARED, {"name": name, "step": step, "known": Jsonb(dict(known))})
