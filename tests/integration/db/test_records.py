"""How the paths of a record's files are kept, and how the few records are found that are to be archived."""

from typing import Any

import pytest
from sqlalchemy import Connection, text

from nexus_tasks.db import handover, reconciling, records
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.states import DeliveryState, SessionStatus
from tests.integration.db import CDCS, START, add_record

ARCHIVED = 20_000
LATIN = "SEM/H\udce4rte 100%.txt"


def kept(url: str, *activities: dict[str, Any]) -> list[dict[str, Any]]:
    """What the row of a record holds that was replaced by one with these activities, and is read as them."""
    with transaction(engine_for(url)) as connection:
        record_id = add_record(connection, "s")
        built = handover.BuiltRecord(START, START, "UTC", "jsmith", "record.xml", "0" * 64, list(activities))
        handover.replace_record(connection, record_id, built)
        readings = [
            reconciling.lock(connection, record_id),
            records.of_session(connection, "s"),
            records.lock_of_session(connection, "s"),
            *records.of_sessions(connection),
        ]
        for reading in readings:
            assert reading is not None
            assert reading.activities == list(activities)
        stored: list[dict[str, Any]] = connection.execute(text("SELECT activities FROM record")).scalar_one()
    return stored


def test_a_path_that_is_no_text_is_read_as_it_was_given(database_url: str) -> None:
    plain = {"files": ["SEM/a.txt"], "previews": [None]}
    odd = {"files": [LATIN, "SEM/b%20.txt"], "previews": [f"{LATIN}.thumb.png", None]}

    assert kept(database_url, plain, odd) == [
        plain,
        {
            "files": ["SEM/H%E4rte%20100%25.txt", "SEM/b%2520.txt"],
            "previews": ["SEM/H%E4rte%20100%25.txt.thumb.png", None],
            "quoted": True,
        },
    ]


@pytest.mark.parametrize("path", ["SEM/H%E4rte.txt", "SEM/100%.txt", "SEM/\u00e4.txt", "SEM/%"])
def test_a_path_that_is_text_is_kept_as_ever(database_url: str, path: str) -> None:
    activity = {"files": [path], "previews": [None]}
    assert kept(database_url, activity) == [activity]


def rows_read(connection: Connection) -> int:
    """How many records were looked at in this transaction, with and without an index."""
    statement = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'record'"
    read: int = connection.execute(text(statement)).scalar_one()
    return read


def test_the_records_to_archive_are_found_among_very_many_that_are_archived(connection: Connection) -> None:
    first = add_record(connection, "session-0", CDCS)
    connection.execute(
        text(
            "INSERT INTO record (session_identifier, instrument_pid, dt_from, dt_to, timezone, document, sha256,"
            " activities, strategy, archived_at) SELECT 'session-' || number, instrument_pid, dt_from, dt_to, timezone,"
            " document, sha256, activities, strategy, now() FROM record, generate_series(1, :more) AS number"
        ),
        {"more": ARCHIVED},
    )
    connection.execute(text("UPDATE delivery SET state = :done"), {"done": DeliveryState.SUCCEEDED})
    connection.execute(text("UPDATE session_log SET record_status = :done"), {"done": SessionStatus.COMPLETED})
    connection.execute(text("ANALYZE record, delivery, session_log"))
    before = rows_read(connection)
    assert [row.id for row in records.archivable(connection, after=0, limit=100)] == [first]
    assert rows_read(connection) - before < 10
