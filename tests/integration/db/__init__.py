"""Tests of the statements on a real PostgreSQL, with the rows that they need."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from nexus_tasks.db import deliveries, handover, planning, sessions
from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.delivery.plan import waits_for
from nexus_tasks.states import DeliveryState, RunKind, SessionStatus, Strategy

INSTRUMENT = "FEI-Titan-TEM-012345"
START = datetime(2025, 1, 27, 10, 30, tzinfo=UTC)
CDCS = DestinationSnapshot("cdcs", 100, (), (), updates=True)
ELABFTW = DestinationSnapshot("elabftw", 85, ("cdcs",), (), updates=True)
LABARCHIVES = DestinationSnapshot("labarchives", 90, ("cdcs",), (), updates=True)
PATIENCE = timedelta(minutes=2)


def add_session(
    connection: Connection, identifier: str, status: SessionStatus = SessionStatus.TO_BE_BUILT, hour: int = 0
) -> None:
    """A session of two hours, `hour` hours after the first one."""
    sessions.add_instrument(connection, InstrumentRow(INSTRUMENT, "Titan", None, "Titan", "UTC"))
    start = START + timedelta(hours=hour)
    sessions.add_session(
        connection, SessionRow(identifier, INSTRUMENT, start, start + timedelta(hours=2), "jsmith", status)
    )


def add_record(
    connection: Connection,
    identifier: str,
    *destinations: DestinationSnapshot,
    strategy: Strategy = Strategy.ALL,
) -> int:
    """A record handed over, with its session, its deliveries and what they wait for."""
    add_session(connection, identifier, SessionStatus.BUILT_NOT_EXPORTED)
    built = handover.BuiltRecord(START, START + timedelta(hours=2), "UTC", "jsmith", "record.xml", "0" * 64, [])
    record_id = handover.add_record(connection, identifier, INSTRUMENT, built, strategy).record_id
    assert record_id is not None
    handover.add_deliveries(connection, [record_id], destinations)
    store_waits(connection, record_id)
    return record_id


def store_waits(connection: Connection, record_id: int) -> None:
    """Store what the record's deliveries wait for now, as reconcile does."""
    deliveries.set_waits(connection, waits_for(deliveries.of_record(connection, record_id)))


def set_delivery(
    connection: Connection, record_id: int, destination: str, state: DeliveryState, wait: float = 0
) -> None:
    """Put a delivery into a state, due `wait` seconds from now, and store what the record's deliveries wait for."""
    connection.execute(
        text(
            "UPDATE delivery SET state = :state, next_attempt_at = now() + :wait,"
            " succeeded_at = CASE WHEN :state = 'succeeded' THEN now() ELSE succeeded_at END"
            " WHERE record_id = :record_id AND destination = :destination"
        ),
        {"state": state, "wait": timedelta(seconds=wait), "record_id": record_id, "destination": destination},
    )
    store_waits(connection, record_id)


def add_run(
    connection: Connection,
    record_id: int,
    delivery_ids: Sequence[int],
    kind: RunKind = RunKind.NORMAL,
    patience: timedelta = PATIENCE,
) -> tuple[int, UUID, dict[int, int]]:
    """An open run over those deliveries: its id, its token, and delivery id → attempt id."""
    rows = {row.id: row.destination for row in deliveries.of_record(connection, record_id).deliveries}
    wanted = planning.NewRun(record_id, uuid4(), kind, [(number, rows[number]) for number in delivery_ids])
    opened = planning.open_runs(connection, [wanted], patience)
    [run_id] = {run_id for run_id, _ in opened.values()}
    return run_id, wanted.token, {delivery_id: attempt_id for delivery_id, (_, attempt_id) in opened.items()}


def begin(connection: Connection, attempt_id: int) -> UUID:
    """Have a worker begin a planned attempt, in the test's transaction: its lease."""
    lease = uuid4()
    connection.execute(
        text(
            "UPDATE attempt SET state = 'started', tries = tries + 1, lease_token = :lease,"
            " lease_expires_at = now() + interval '1 minute', try_started_at = now(), started_at = now()"
            " WHERE id = :attempt AND state = 'planned'"
        ),
        {"attempt": attempt_id, "lease": lease},
    )
    return lease
