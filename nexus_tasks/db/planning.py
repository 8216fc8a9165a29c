"""The statements of the planner: its lock, what may go out, and the runs that it opens.

What a delivery waits for stands in its row (`delivery.plan.waits_for`), so each question is answered by the index of
due deliveries, however long the backlog is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from nexus_tasks.db.engine import execute
from nexus_tasks.db.rows import QUARANTINE
from nexus_tasks.states import RunKind

PLANNER_LOCK = 0x706C616E  # an advisory lock key: "plan"

_TRY_LOCK = text("""
    SELECT (SELECT requested FROM planner) AS requested, pg_try_advisory_xact_lock(:key) AS locked, now() AS now
""")
_REQUEST = text("UPDATE planner SET requested = requested + 1 RETURNING requested")
_REQUESTED = text("SELECT requested FROM planner")

# One descent of the index finds each value of `waits_for` that a destination's unfinished deliveries have.
_SHAPES = """
    WITH RECURSIVE shape (destination, waits_for) AS (
        (SELECT destination, waits_for FROM delivery WHERE state IN ('pending', 'retrying')
         ORDER BY destination, waits_for LIMIT 1)
        UNION ALL
        SELECT following.destination, following.waits_for FROM shape CROSS JOIN LATERAL (
            SELECT destination, waits_for FROM delivery
            WHERE state IN ('pending', 'retrying')
                AND (destination, waits_for) > (shape.destination, shape.waits_for)
            ORDER BY destination, waits_for LIMIT 1
        ) AS following
    )
"""
# A shape names the destinations that go first. An open circuit is not awaited; what has a colon is awaited anyhow.
_DUE = text(f"""
    {_SHAPES}
    SELECT taken.record_id, shape.destination, shape.waits_for = :quarantine AS quarantined
    FROM unnest(CAST(:names AS text[]), CAST(:capacities AS int[])) AS free (destination, capacity)
    JOIN shape ON shape.destination = free.destination
        AND (shape.waits_for = :quarantine
             OR string_to_array(shape.waits_for, ',') <@ CAST(:not_awaited AS text[]))
    CROSS JOIN LATERAL (
        SELECT delivery.record_id, delivery.next_attempt_at, delivery.id FROM delivery
        WHERE delivery.destination = shape.destination AND delivery.waits_for = shape.waits_for
            AND delivery.state IN ('pending', 'retrying') AND delivery.next_attempt_at <= now()
            AND NOT EXISTS (SELECT FROM run WHERE run.record_id = delivery.record_id AND run.state = 'open')
        ORDER BY delivery.next_attempt_at, delivery.id LIMIT free.capacity
    ) AS taken
    ORDER BY taken.next_attempt_at, taken.id
""")
_OPEN_OF_KIND = text("""
    SELECT DISTINCT attempt.destination FROM attempt JOIN run ON run.id = attempt.run_id
    WHERE attempt.state IN ('planned', 'started') AND run.state = 'open' AND run.kind = :kind
""")
_OPEN_RUNS = text("""
    WITH opened AS (
        INSERT INTO run (record_id, token, kind, expected_by)
        SELECT record_id, token, kind, now() + :patience
        FROM unnest(CAST(:records AS int[]), CAST(:tokens AS uuid[]), CAST(:kinds AS text[]))
            AS planned (record_id, token, kind)
        RETURNING id, record_id
    )
    INSERT INTO attempt (run_id, delivery_id, destination)
    SELECT opened.id, planned.delivery_id, planned.destination
    FROM unnest(CAST(:of_records AS int[]), CAST(:deliveries AS int[]), CAST(:destinations AS text[]))
        AS planned (record_id, delivery_id, destination)
    JOIN opened ON opened.record_id = planned.record_id
    RETURNING id, run_id, delivery_id
""")
_LOCK_RUN = text("SELECT 1 FROM run WHERE id = :run FOR NO KEY UPDATE")
_CANCEL_RUN = text("""
    WITH cancelled AS (
        UPDATE attempt SET state = 'cancelled', ended_at = now() WHERE run_id = :run AND state = 'planned'
            AND NOT EXISTS (SELECT FROM attempt AS other WHERE other.run_id = :run AND other.state <> 'planned')
        RETURNING run_id
    )
    UPDATE run SET state = 'closed', closed_at = now()
    WHERE id IN (SELECT run_id FROM cancelled) AND state = 'open'
""")


@dataclass(frozen=True)
class Turn:
    """A planner's turn: the requests that it serves, and PostgreSQL's clock."""

    requested: int
    now: datetime


@dataclass(frozen=True)
class Due:
    """A delivery that may go out now."""

    record_id: int
    destination: str
    quarantined: bool


@dataclass(frozen=True)
class NewRun:
    """A run to be opened: a record and its deliveries, (delivery id, destination)."""

    record_id: int
    token: UUID
    kind: RunKind
    deliveries: Sequence[tuple[int, str]]


def try_lock(connection: Connection) -> Turn | None:
    """Become the only planner until the end of the transaction; None while another one is at work."""
    row = connection.execute(_TRY_LOCK, {"key": PLANNER_LOCK}).one()
    return Turn(row.requested or 0, row.now) if row.locked else None


def request(engine: Engine) -> None:
    """Have the planner that is at work plan once more."""
    execute(engine, _REQUEST, {})


def requested(engine: Engine) -> int:
    """How many plannings have been requested of a planner at work."""
    row = execute(engine, _REQUESTED, {})
    return 0 if row is None else int(row["requested"])


def due(connection: Connection, capacity: Mapping[str, int], not_awaited: Collection[str]) -> list[Due]:
    """What may go out now: for each destination as many deliveries as it has capacity for, the longest due first.

    Quarantined ones come beside the others. `not_awaited` are the destinations whose circuit is open.
    """
    if not capacity:
        return []
    parameters = {
        "names": list(capacity),
        "capacities": list(capacity.values()),
        "not_awaited": list(not_awaited),
        "quarantine": QUARANTINE,
    }
    return [Due(row.record_id, row.destination, row.quarantined) for row in connection.execute(_DUE, parameters)]


def destinations_with_open_run(connection: Connection, kind: RunKind) -> set[str]:
    """The destinations that have an attempt in an open run of this kind."""
    return set(connection.execute(_OPEN_OF_KIND, {"kind": kind.value}).scalars())


def open_runs(connection: Connection, runs: Sequence[NewRun], patience: timedelta) -> dict[int, tuple[int, int]]:
    """Insert open runs with a planned attempt for each delivery: delivery id → (run id, attempt id).

    Something is expected to happen in each within `patience`.
    """
    wanted = [(run.record_id, *delivery) for run in runs for delivery in run.deliveries]
    rows = connection.execute(
        _OPEN_RUNS,
        {
            "patience": patience,
            "records": [run.record_id for run in runs],
            "tokens": [run.token for run in runs],
            "kinds": [run.kind.value for run in runs],
            "of_records": [record_id for record_id, _, _ in wanted],
            "deliveries": [delivery_id for _, delivery_id, _ in wanted],
            "destinations": [destination for _, _, destination in wanted],
        },
    )
    return {row.delivery_id: (row.run_id, row.id) for row in rows}


def cancel_run(connection: Connection, run_id: int) -> None:
    """Close a run that could not be published; one that a worker has started was published all the same."""
    connection.execute(_LOCK_RUN, {"run": run_id})
    connection.execute(_CANCEL_RUN, {"run": run_id})
