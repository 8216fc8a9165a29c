from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from nexus_tasks.db import candidates, deliveries, runs
from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.delivery.plan import plan
from nexus_tasks.states import DeliveryState, RunState, Strategy
from tests.integration.db import CDCS, ELABFTW, LABARCHIVES, add_record, add_run
from tests.timing import fastest

WIDE = {"cdcs": 16, "labarchives": 16, "elabftw": 16}
BACKLOG = 2000
MOST_SECONDS = 0.5
ALONE = DestinationSnapshot("elabftw", 85, (), (), updates=True)


def set_delivery(
    connection: Connection, record_id: int, destination: str, state: DeliveryState, wait: float | None = None
) -> None:
    """Put a delivery into a state; `wait` in seconds from now."""
    connection.execute(
        text(
            "UPDATE delivery SET state = :state, next_attempt_at = now() + :wait,"
            " succeeded_at = CASE WHEN :state = 'succeeded' THEN now() ELSE succeeded_at END"
            " WHERE record_id = :record_id AND destination = :destination"
        ),
        {
            "state": state,
            "wait": None if wait is None else timedelta(seconds=wait),
            "record_id": record_id,
            "destination": destination,
        },
    )


def found(connection: Connection, room: dict[str, int], *paused: str) -> list[int]:
    return [item.record_id for item in candidates.next_records(connection, room, paused)]


def planned(connection: Connection, room: dict[str, int], *paused: str) -> list[tuple[int, list[str]]]:
    """What the planner makes of the candidates, page after page as dispatch asks for them: (record, destinations)."""
    now, left = deliveries.clock(connection), dict(room)
    found: list[tuple[int, list[str]]] = []
    seen: set[int] = set()
    while page := candidates.next_records(connection, left, paused, seen):
        seen.update(record.record_id for record in page)
        for run in plan(page, left, paused, now):
            found.append((run.record_id, [item.destination for item in run.deliveries]))
            for item in run.deliveries:
                left[item.destination] -= 1
    return found


def backlog(connection: Connection, *destinations: DestinationSnapshot) -> None:
    first = add_record(connection, "session-0", *destinations)
    connection.execute(
        text(
            "INSERT INTO record (session_identifier, instrument_pid, dt_from, dt_to, timezone, document, sha256,"
            " activities, strategy) SELECT 'session-' || number, instrument_pid, dt_from, dt_to, timezone, document,"
            " sha256, activities, strategy FROM record, generate_series(1, :more) AS number WHERE record.id = :first"
        ),
        {"more": BACKLOG - 1, "first": first},
    )
    connection.execute(
        text(
            "INSERT INTO delivery (record_id, destination, priority, depends_on, requires, updates)"
            " SELECT record.id, destination, priority, depends_on, requires, updates FROM record, delivery"
            " WHERE delivery.record_id = :first AND record.id != :first ORDER BY record.id, delivery.id"
        ),
        {"first": first},
    )
    connection.execute(text("ANALYZE record, delivery, run"))  # as PostgreSQL does by itself soon after such a load


def test_a_new_record_is_a_candidate_with_all_its_deliveries(connection: Connection) -> None:
    record_id = add_record(connection, "session", ELABFTW, CDCS, LABARCHIVES)
    [candidate] = candidates.next_records(connection, WIDE, ())
    assert candidate.record_id == record_id
    assert [item.destination for item in candidate.deliveries] == ["cdcs", "labarchives", "elabftw"]
    assert {item.state for item in candidate.deliveries} == {DeliveryState.PENDING}


def test_a_record_without_deliveries_is_no_candidate(connection: Connection) -> None:
    add_record(connection, "session")
    assert candidates.next_records(connection, WIDE, ()) == []


@pytest.mark.parametrize(
    "room", [WIDE, {"cdcs": 0, "labarchives": 16, "elabftw": 16}, {"cdcs": 3, "labarchives": 1}, {}]
)
def test_the_candidates_of_a_long_backlog_are_bounded_by_room_and_fast(
    connection: Connection, room: dict[str, int]
) -> None:
    backlog(connection, CDCS, LABARCHIVES, ELABFTW)
    assert fastest(lambda: candidates.next_records(connection, room, ()), enough=MOST_SECONDS) < MOST_SECONDS
    records = candidates.next_records(connection, room, ())
    assert len(records) == room.get("cdcs", 0)  # the notebooks wait for it
    assert len(planned(connection, room)) == room.get("cdcs", 0)


def test_a_backlog_behind_a_slow_destination_does_not_hold_the_others_back(connection: Connection) -> None:
    backlog(connection, CDCS, LABARCHIVES)
    connection.execute(text("UPDATE delivery SET state = 'succeeded', succeeded_at = now() WHERE destination = 'cdcs'"))
    newest = add_record(connection, "newest", CDCS, LABARCHIVES)
    assert fastest(lambda: planned(connection, {"cdcs": 16, "labarchives": 1}), enough=MOST_SECONDS) < MOST_SECONDS
    runs_ = planned(connection, {"cdcs": 16, "labarchives": 1})
    assert (newest, ["cdcs"]) in runs_
    assert len(runs_) == 2


def test_the_longest_waiting_are_taken_first(connection: Connection) -> None:
    records = [add_record(connection, f"session-{number}", CDCS) for number in range(5)]
    assert found(connection, {"cdcs": 2}) == records[:2]


def test_a_record_in_an_open_run_is_no_candidate_until_it_is_closed(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ELABFTW)
    [candidate] = candidates.next_records(connection, WIDE, ())
    run_id, _, _ = add_run(connection, record_id, [candidate.deliveries[0].id])
    assert found(connection, WIDE) == []
    runs.close(connection, run_id)
    assert found(connection, WIDE) == [record_id]


def test_a_record_has_one_open_run_at_most(database_url: str) -> None:
    engine = engine_for(database_url)
    with transaction(engine) as connection:
        record_id = add_record(connection, "session", CDCS)
        add_run(connection, record_id, [deliveries.of_record(connection, record_id).deliveries[0].id])
    with pytest.raises(Exception, match="uq_run_open"), transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO run (record_id, state, token, expected_by) VALUES (:id, :open, gen_random_uuid(), now())"
            ),
            {
                "id": record_id,
                "open": RunState.OPEN,
            },
        )
    engine.dispose()


@pytest.mark.parametrize(
    ("state", "wait", "is_due"),
    [
        (DeliveryState.PENDING, None, True),
        (DeliveryState.RETRYING, -1, True),
        (DeliveryState.RETRYING, 0, True),
        (DeliveryState.RETRYING, 60, False),
        (DeliveryState.SUCCEEDED, None, False),
        (DeliveryState.FAILED, None, False),
        (DeliveryState.SKIPPED, None, False),
    ],
)
def test_a_delivery_makes_a_candidate_when_it_is_due(
    connection: Connection, state: DeliveryState, wait: float | None, *, is_due: bool
) -> None:
    record_id = add_record(connection, "session", CDCS)
    set_delivery(connection, record_id, "cdcs", state, wait)
    assert found(connection, WIDE) == ([record_id] if is_due else [])


def test_a_pending_dependency_without_room_holds_its_dependent_back(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ELABFTW)
    assert found(connection, {"cdcs": 0, "elabftw": 16}) == []
    assert found(connection, {"cdcs": 0, "elabftw": 16}, "cdcs") == [record_id]


@pytest.mark.parametrize(
    "state", [DeliveryState.RETRYING, DeliveryState.SUCCEEDED, DeliveryState.FAILED, DeliveryState.SKIPPED]
)
def test_a_dependency_that_was_tried_does_not_hold_its_dependent_back(
    connection: Connection, state: DeliveryState
) -> None:
    record_id = add_record(connection, "session", CDCS, ELABFTW)
    set_delivery(connection, record_id, "cdcs", state, 60 if state is DeliveryState.RETRYING else None)
    assert found(connection, {"elabftw": 1}) == [record_id]


@pytest.mark.parametrize("state", [DeliveryState.PENDING, DeliveryState.RETRYING])
def test_what_is_required_holds_its_dependent_back_until_it_is_there(
    connection: Connection, state: DeliveryState
) -> None:
    mirror = DestinationSnapshot("mirror", 50, (), ("cdcs",), updates=False)
    record_id = add_record(connection, "session", CDCS, mirror)
    set_delivery(connection, record_id, "cdcs", state, 60 if state is DeliveryState.RETRYING else None)
    assert found(connection, {"mirror": 1}) == []
    assert found(connection, {"mirror": 1}, "cdcs") == []
    set_delivery(connection, record_id, "cdcs", DeliveryState.SUCCEEDED)
    assert found(connection, {"mirror": 1}) == [record_id]


def test_a_paused_destination_makes_no_candidates(connection: Connection) -> None:
    add_record(connection, "session", CDCS)
    assert found(connection, WIDE, "cdcs") == []


def test_first_success_waits_for_the_room_of_the_next_by_priority(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    assert planned(connection, {"cdcs": 0, "elabftw": 16}) == []
    assert planned(connection, {"cdcs": 1, "elabftw": 16}) == [(record_id, ["cdcs"])]


def test_first_success_moves_on_after_a_failure(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    set_delivery(connection, record_id, "cdcs", DeliveryState.RETRYING, 60)
    assert planned(connection, WIDE) == [(record_id, ["elabftw"])]


def test_first_success_does_not_wait_for_a_paused_destination(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    assert planned(connection, WIDE, "cdcs") == [(record_id, ["elabftw"])]


def test_a_record_that_waits_for_another_destination_takes_nobodys_place(connection: Connection) -> None:
    """Under first_success, one whose CDCS has failed goes to eLabFTW next, which is full: CDCS has room for others."""
    stuck = add_record(connection, "stuck", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    set_delivery(connection, stuck, "cdcs", DeliveryState.RETRYING, -1)
    other = add_record(connection, "other", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    assert planned(connection, {"cdcs": 1, "elabftw": 0}) == [(other, ["cdcs"])]


def test_first_success_has_no_candidates_once_one_holds_the_record(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    set_delivery(connection, record_id, "elabftw", DeliveryState.SUCCEEDED)
    assert found(connection, WIDE) == []
    set_delivery(connection, record_id, "elabftw", DeliveryState.PENDING)  # rebuilt
    assert planned(connection, WIDE) == [(record_id, ["elabftw"])]


def probed(connection: Connection, destination: str, *paused: str) -> int | None:
    """The record by which the destination is tried again while it is paused, others perhaps as well."""
    record = candidates.probe(connection, destination, {destination, *paused})
    return record.record_id if record else None


def test_a_probe_does_not_go_before_what_its_record_sends_first(connection: Connection) -> None:
    new = add_record(connection, "new", CDCS, ELABFTW)
    assert probed(connection, "elabftw") is None
    tried = add_record(connection, "tried", CDCS, ELABFTW)
    set_delivery(connection, tried, "cdcs", DeliveryState.RETRYING, 60)
    assert probed(connection, "elabftw") == tried
    assert probed(connection, "elabftw", "cdcs") == new


@pytest.mark.parametrize(
    ("other", "is_probed"),
    [(DeliveryState.PENDING, False), (DeliveryState.RETRYING, True), (DeliveryState.FAILED, True)],
)
def test_under_first_success_a_probe_does_not_go_before_a_destination_of_higher_rank(
    connection: Connection, other: DeliveryState, *, is_probed: bool
) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    set_delivery(connection, record_id, "cdcs", other, 60 if other is DeliveryState.RETRYING else None)
    assert probed(connection, "elabftw") == (record_id if is_probed else None)
    assert probed(connection, "elabftw", "cdcs") == record_id
    set_delivery(connection, record_id, "cdcs", DeliveryState.SUCCEEDED)
    assert probed(connection, "elabftw") is None


@pytest.mark.parametrize("strategy", [Strategy.ALL, Strategy.FIRST_SUCCESS])
def test_a_backlog_that_postgresql_knows_nothing_of_yet_is_looked_through_once(
    connection: Connection, strategy: Strategy
) -> None:
    backlog(connection, CDCS)
    connection.execute(text("UPDATE record SET strategy = :strategy"), {"strategy": strategy})
    connection.execute(text("UPDATE delivery SET state = 'succeeded', succeeded_at = now()"))
    connection.execute(text("ANALYZE record, delivery, run, attempt"))
    everything = connection.execute(text("SELECT id FROM record")).scalars().all()
    deliveries.add(connection, everything, [ELABFTW])
    before = rows_read(connection)
    probed(connection, "elabftw")
    candidates.next_records(connection, {"elabftw": 16}, ())
    assert rows_read(connection) - before < 20 * BACKLOG


def rows_read(connection: Connection) -> int:
    """How many deliveries were looked at in this transaction, with and without an index."""
    statement = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'delivery'"
    read: int = connection.execute(text(statement)).scalar_one()
    return read


def test_under_first_success_a_probe_waits_for_none_that_waits_for_it(connection: Connection) -> None:
    top = DestinationSnapshot("top", 200, ("middle",), (), updates=True)
    middle = DestinationSnapshot("middle", 10, (), ("cdcs",), updates=True)
    record_id = add_record(connection, "session", top, CDCS, middle, strategy=Strategy.FIRST_SUCCESS)
    assert probed(connection, "cdcs") == record_id


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


def test_a_skipped_delivery_is_settled_with_its_reason_and_a_settled_one_stays(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ELABFTW)
    set_delivery(connection, record_id, "cdcs", DeliveryState.FAILED)
    both = deliveries.of_record(connection, record_id).deliveries
    deliveries.skip(connection, {item.id: "not wanted" for item in both})
    after = deliveries.of_record(connection, record_id).deliveries
    assert [(item.state, item.error_message) for item in after] == [
        (DeliveryState.FAILED, None),
        (DeliveryState.SKIPPED, "not wanted"),
    ]


def test_what_a_step_has_created_is_remembered_beside_what_others_have(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS)
    [item] = deliveries.of_record(connection, record_id).deliveries
    assert deliveries.lock_remote(connection, item.id) == ({}, False)
    deliveries.set_remote(connection, item.id, "record", {"id": "7", "content": None})
    deliveries.set_remote(connection, item.id, "attachment", {"id": "8", "content": None})
    deliveries.set_remote(connection, item.id, "record", {"id": "7", "content": "fingerprint"})
    known, _ = deliveries.lock_remote(connection, item.id)
    assert known == {
        "record": {"id": "7", "content": "fingerprint"},
        "attachment": {"id": "8", "content": None},
    }
