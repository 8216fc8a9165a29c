"""The statements of the rescuer: runs in which something should have happened by now."""

from datetime import timedelta

from sqlalchemy import Connection, text

from nexus_tasks.db import attempts
from nexus_tasks.db.rows import OverdueRun
from nexus_tasks.states import RunKind, RunState

# Lost runs are looked at again while a message of theirs may be queued.
_OVERDUE = text("""
    SELECT id FROM run WHERE state = 'open' AND expected_by < now()
    UNION
    SELECT run.id FROM attempt JOIN run ON run.id = attempt.run_id
    WHERE attempt.state = 'orphaned' AND run.expected_by < now()
    ORDER BY id
""")
_DESTINATIONS = text("""
    SELECT DISTINCT destination FROM attempt WHERE run_id = ANY(:runs) AND state IN ('planned', 'orphaned')
""")
_LOCK = text("""
    SELECT run.id, run.record_id, run.kind, run.state, now() - run.expected_by AS overdue_for
    FROM run JOIN record ON record.id = run.record_id
    WHERE run.id = :run AND run.expected_by < now()
    FOR NO KEY UPDATE OF record, run SKIP LOCKED
""")
_EXPECT = text("""
    UPDATE run SET expected_by = greatest(expected_by, now() + :within) WHERE id = :run
""")
_LOSE = text("UPDATE run SET state = 'lost', closed_at = now() WHERE id = :run AND state = 'open'")
_LEASE = text("""
    SELECT max(greatest(lease_expires_at, ended_at + :patience)) - now() AS remaining FROM attempt WHERE run_id = :run
""")
_LOSE_ALL = text("""
    UPDATE run SET state = 'lost', closed_at = now() WHERE state = 'open' RETURNING record_id
""")
_CANCEL_ALL = text("""
    UPDATE attempt SET state = 'cancelled', ended_at = now(), lease_token = NULL, lease_expires_at = NULL
    WHERE state IN ('planned', 'started', 'orphaned')
""")


def overdue(connection: Connection) -> list[int]:
    """The runs in which something should have happened by now; `lock` says of each how it is when it is its turn."""
    return list(connection.execute(_OVERDUE).scalars())


def awaited_destinations(connection: Connection, run_ids: list[int]) -> set[str]:
    """The destinations whose messages of those runs no worker has taken yet."""
    return set(connection.execute(_DESTINATIONS, {"runs": run_ids}).scalars())


def lock(connection: Connection, run_id: int) -> OverdueRun | None:
    """The run with its attempts, all locked with the record until the end of the transaction.

    None when something has happened in it meanwhile, or happens at this moment.
    """
    row = connection.execute(_LOCK, {"run": run_id}).one_or_none()
    if row is None:
        return None
    return OverdueRun(
        row.id,
        row.record_id,
        RunKind(row.kind),
        RunState(row.state),
        row.overdue_for,
        attempts.lock_of_run(connection, run_id),
    )


def next_event_within(connection: Connection, run_id: int, patience: timedelta) -> timedelta | None:
    """How long until the run is overdue by its live leases and ended attempts; None when they say nothing."""
    remaining: timedelta | None = connection.execute(_LEASE, {"run": run_id, "patience": patience}).scalar_one()
    return remaining if remaining is not None and remaining > timedelta() else None


def expect(connection: Connection, run_id: int, within: timedelta) -> None:
    """The next event in the run is expected within this time; never earlier than it was."""
    connection.execute(_EXPECT, {"run": run_id, "within": within})


def lose(connection: Connection, run_id: int) -> None:
    """Write that an open run is lost."""
    connection.execute(_LOSE, {"run": run_id})


def lose_all(connection: Connection) -> list[int]:
    """After a restore: no message under way belongs to these rows; the records whose runs were open."""
    records = sorted(connection.execute(_LOSE_ALL).scalars())
    connection.execute(_CANCEL_ALL)
    return records
