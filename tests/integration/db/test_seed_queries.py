"""The SQL of the exporters' documentation, word for word: what operators of NexusLIMS have in their notes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.rows import dict_row

from nexus_tasks.db import attempts, deliveries
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.delivery.retry import RetryPolicy, after_failure, after_result
from nexus_tasks.exporters.base import ExportResult, TransientError
from tests.integration.db import CDCS, ELABFTW, INSTRUMENT, add_record, add_run, begin

SESSION = "your-session-id"

EXPORT_ATTEMPTS: LiteralString = """\
SELECT destination_name, success, timestamp, error_message
FROM upload_log
WHERE session_identifier = 'your-session-id'
ORDER BY timestamp DESC;
"""
SESSION_STATUS: LiteralString = """\
SELECT instrument, record_status, timestamp
FROM session_log
WHERE session_identifier = 'your-session-id';
"""
FAILURES: LiteralString = """\
SELECT * FROM upload_log 
WHERE success = 0 
ORDER BY timestamp DESC 
LIMIT 10;
"""  # noqa: W291 - the documentation has these blanks

Rows = list[dict[str, Any]]


@pytest.fixture
def exported(database_url: str) -> Iterator[str]:
    """A database with a session that CDCS has taken and eLabFTW has not, and with one that nothing has happened to."""
    engine = engine_for(database_url)
    with transaction(engine) as connection:
        add_record(connection, "another-session", CDCS, ELABFTW)
        record_id = add_record(connection, SESSION, CDCS, ELABFTW)
        rows = deliveries.of_record(connection, record_id).deliveries
        _, _, planned = add_run(connection, record_id, [row.id for row in rows])
    ends = {
        "cdcs": after_result(
            ExportResult(success=True, destination_name="cdcs", record_id="7", record_url="https://cdcs/7"), 0
        ),
        "elabftw": after_failure(TransientError("eLabFTW is away"), 0, RetryPolicy([60], 75), None),
    }
    for row in rows:
        with transaction(engine) as connection:
            lease = begin(connection, planned[row.id])
            end = ends[row.destination]
            result = {"record_id": end.remote_record_id, "record_url": end.remote_record_url}
            attempts.finish(connection, planned[row.id], lease, end, result=result, known={}, fingerprint="f")
    reconcile(engine, record_id)
    yield database_url
    engine.dispose()


def answers(url: str, query: LiteralString) -> Rows:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


def test_the_attempts_of_a_session_newest_first(exported: str) -> None:
    elabftw, cdcs = answers(exported, EXPORT_ATTEMPTS)
    assert list(cdcs) == ["destination_name", "success", "timestamp", "error_message"]
    assert (cdcs["destination_name"], cdcs["success"], cdcs["error_message"]) == ("cdcs", 1, None)
    assert (elabftw["destination_name"], elabftw["success"]) == ("elabftw", 0)
    assert elabftw["error_message"] == "eLabFTW is away"
    assert cdcs["timestamp"] <= elabftw["timestamp"] <= datetime.now(UTC)


def test_the_status_of_a_session(exported: str) -> None:
    rows = answers(exported, SESSION_STATUS)
    assert len(rows) >= 2
    assert {(row["instrument"], row["record_status"]) for row in rows} == {(INSTRUMENT, "BUILT_NOT_EXPORTED")}
    assert all(row["timestamp"].tzinfo for row in rows)


def test_the_latest_failures(exported: str) -> None:
    [row] = answers(exported, FAILURES)
    assert row["session_identifier"] == SESSION
    assert row["destination_name"] == "elabftw"
    assert row["success"] == 0
    assert row["error_message"] == "eLabFTW is away"


def test_no_more_than_ten_failures_and_the_latest_of_them(exported: str) -> None:
    with psycopg.connect(exported) as connection:
        connection.execute(
            "INSERT INTO upload_log (session_identifier, destination_name, success, timestamp)"
            " SELECT 'old', 'cdcs', 0, now() - number * interval '1 day' FROM generate_series(1, 20) AS number"
        )
    rows = answers(exported, FAILURES)
    assert len(rows) == 10
    assert rows[0]["session_identifier"] == SESSION
    assert [row["timestamp"] for row in rows] == sorted((row["timestamp"] for row in rows), reverse=True)
