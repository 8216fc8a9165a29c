"""More sessions than a query may have parameters."""

from sqlalchemy import Connection, text

from nexus_tasks.db import attempts, builds, deliveries, records, sessions, upload_log

MANY = 66_000  # PostgreSQL takes 65,535 parameters


def test_queries_about_many_sessions_have_no_limit(connection: Connection) -> None:
    identifiers = [f"session-{number}" for number in range(MANY)]
    numbers = list(range(MANY))
    assert sessions.sessions(connection, identifiers) == []
    assert sessions.details(connection, identifiers) == {}
    assert records.of_sessions(connection, identifiers) == []
    assert deliveries.of_records(connection, numbers) == []
    assert attempts.of_records(connection, numbers) == []
    assert builds.of_sessions(connection, identifiers) == {}
    assert upload_log.answers_of_pruned_attempts(connection, identifiers) == {}


def test_any_number_of_builds_can_be_asked_for(connection: Connection) -> None:
    connection.execute(text("INSERT INTO instruments (instrument_pid) VALUES ('SEM')"))
    connection.execute(
        text(
            "INSERT INTO session_log (session_identifier, instrument, timestamp, event_type, record_status)"
            " SELECT 'session-' || n, 'SEM', now(), 'START', 'TO_BE_BUILT' FROM generate_series(1, :many) AS n"
        ),
        {"many": MANY},
    )
    assert len(builds.ask(connection, None, rebuild=False)) == MANY
    assert len(builds.ask(connection, None, rebuild=True)) == MANY
