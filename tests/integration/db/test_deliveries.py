"""The statements about deliveries outside of an attempt."""

from datetime import timedelta
from uuid import uuid4

from sqlalchemy import Connection, text

from nexus_tasks.db import attempts, deliveries
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.states import DeliveryState
from tests.integration.db import CDCS, ELABFTW, LABARCHIVES, add_record, add_run, set_delivery

LASTING = timedelta(minutes=1)


def test_a_record_is_read_with_all_its_deliveries_the_highest_priority_first(connection: Connection) -> None:
    record_id = add_record(connection, "session", ELABFTW, CDCS, LABARCHIVES)
    rows = deliveries.of_record(connection, record_id).deliveries
    assert [item.destination for item in rows] == ["cdcs", "labarchives", "elabftw"]
    assert {item.state for item in rows} == {DeliveryState.PENDING}


def test_all_deliveries_are_looked_up_after_a_restore_however_long_that_takes(connection: Connection) -> None:
    add_record(connection, "session", CDCS)
    connection.execute(
        text(
            "CREATE FUNCTION refuse_haste() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF current_setting('statement_timeout') NOT LIKE '%h' THEN RAISE 'too little time'; END IF;"
            " RETURN NEW; END $$"
        )
    )
    connection.execute(
        text("CREATE TRIGGER hasty BEFORE UPDATE ON delivery FOR EACH ROW EXECUTE FUNCTION refuse_haste()")
    )
    assert deliveries.restored(connection) == 1


def test_a_skipped_delivery_is_final_with_its_reason_and_a_final_one_stays(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ELABFTW)
    set_delivery(connection, record_id, "cdcs", DeliveryState.FAILED)
    both = deliveries.of_record(connection, record_id).deliveries
    deliveries.skip(connection, {item.id: "not wanted" for item in both})
    after = deliveries.of_record(connection, record_id).deliveries
    assert [(item.state, item.error_message) for item in after] == [
        (DeliveryState.FAILED, None),
        (DeliveryState.SKIPPED, "not wanted"),
    ]


def test_what_a_step_has_created_is_remembered_beside_what_others_have(database_url: str) -> None:
    engine, lease = engine_for(database_url), uuid4()
    with transaction(engine) as connection:
        record_id = add_record(connection, "session", CDCS)
        [item] = deliveries.of_record(connection, record_id).deliveries
        assert deliveries.remote_of(connection, item.id) == {}
        _, token, planned = add_run(connection, record_id, [item.id])
    attempt_id = planned[item.id]
    assert attempts.start(engine, attempt_id, token, lease, LASTING)
    for known in (
        {"record": {"id": "7", "content": None}},
        {"attachment": {"id": "8", "content": None}},
        {"record": {"id": "7", "content": "fingerprint"}},
    ):
        assert attempts.extend(engine, attempt_id, lease, LASTING, known, "inputs")
    assert not attempts.extend(engine, attempt_id, uuid4(), LASTING, {"record": {"id": "9"}}, "inputs")
    with transaction(engine) as connection:
        assert deliveries.remote_of(connection, item.id) == {
            "record": {"id": "7", "content": "fingerprint"},
            "attachment": {"id": "8", "content": None},
        }
    engine.dispose()
