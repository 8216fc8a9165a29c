"""Tests of the queries on a real PostgreSQL, with the rows that they need."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from nexus_tasks.db import deliveries, records, runs, sessions
from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.states import RunKind, SessionStatus, Strategy

INSTRUMENT = "FEI-Titan-TEM-012345"
START = datetime(2025, 1, 27, 10, 30, tzinfo=UTC)
CDCS = DestinationSnapshot("cdcs", 100, (), (), updates=True)
ELABFTW = DestinationSnapshot("elabftw", 85, ("cdcs",), (), updates=True)
LABARCHIVES = DestinationSnapshot("labarchives", 90, ("cdcs",), (), updates=True)


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
    """A record handed over, with its session and its deliveries."""
    add_session(connection, identifier, SessionStatus.BUILT_NOT_EXPORTED)
    built = handover.BuiltRecord(START, START + timedelta(hours=2), "UTC", "jsmith", "record.xml", "0" * 64, [])
    record_id = records.add(connection, identifier, INSTRUMENT, built, strategy)
    assert record_id is not None
    deliveries.add(connection, [record_id], destinations)
    return record_id


def add_run(
    connection: Connection,
    record_id: int,
    delivery_ids: Sequence[int],
    kind: RunKind = RunKind.NORMAL,
    patience: timedelta = timedelta(minutes=2),
) -> tuple[int, UUID, dict[int, int]]:
    """An open run over those deliveries: its id, its token, and delivery id → attempt id."""
    return runs.add(connection, record_id, delivery_ids, kind, patience)
