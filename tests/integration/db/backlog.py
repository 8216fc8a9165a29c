"""Many records that wait, and how many of their rows were read."""

from sqlalchemy import Connection, Engine, text

from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.states import Strategy
from tests.integration.db import add_record


def add_backlog(
    connection: Connection, number: int, *destinations: DestinationSnapshot, strategy: Strategy = Strategy.ALL
) -> None:
    """That many records, handed over to those destinations; PostgreSQL has counted them, as it does soon by itself."""
    first = add_record(connection, "session-0", *destinations, strategy=strategy)
    connection.execute(
        text(
            "INSERT INTO record (session_identifier, instrument_pid, dt_from, dt_to, timezone, document, sha256,"
            " activities, strategy) SELECT 'session-' || number, instrument_pid, dt_from, dt_to, timezone, document,"
            " sha256, activities, strategy FROM record, generate_series(1, :more) AS number WHERE record.id = :first"
        ),
        {"more": number - 1, "first": first},
    )
    connection.execute(
        text(
            "INSERT INTO delivery (record_id, destination, priority, depends_on, requires, updates, waits_for)"
            " SELECT record.id, destination, priority, depends_on, requires, updates, waits_for FROM record, delivery"
            " WHERE delivery.record_id = :first AND record.id != :first ORDER BY record.id, delivery.id"
        ),
        {"first": first},
    )
    connection.execute(text("ANALYZE record, delivery, run, attempt"))


def vacuum(engine: Engine) -> None:
    """What autovacuum does by itself: index entries of rows of the past are gone, and rows are counted."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE record, delivery, run, attempt"))


def rows_read(connection: Connection) -> int:
    """How many deliveries, or their entries in an index, were looked at in this transaction."""
    statement = """
        SELECT pg_stat_get_xact_tuples_returned('delivery'::regclass)
            + (SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index
               WHERE indrelid = 'delivery'::regclass)
    """
    return int(connection.execute(text(statement)).scalar_one())
