"""What the planner's statements find, open and read."""

import json
from collections.abc import Collection

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Connection, Engine, text

from nexus_tasks.db import deliveries, handover, planning
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.db.rows import RecordDeliveries
from nexus_tasks.delivery.plan import plan
from nexus_tasks.states import DeliveryState, RunState, Strategy
from tests.integration.db import CDCS, ELABFTW, LABARCHIVES, add_record, add_run, set_delivery
from tests.integration.db.backlog import add_backlog, rows_read, vacuum
from tests.unit.delivery.test_plan import GIVEN_CAPACITY, GIVEN_OPEN, NOW, selected, some_records

WIDE = {"cdcs": 16, "labarchives": 16, "elabftw": 16}
BACKLOG = 2000
ALONE = DestinationSnapshot("elabftw", 85, (), (), updates=True)
READ_FOR_EACH = 6  # deliveries read for each that may go: its record's, by an index, and itself
READ_ANYHOW = 60  # to find out which shapes there are


def found(connection: Connection, capacity: dict[str, int], *circuits_open: str) -> list[int]:
    closed = {name: number for name, number in capacity.items() if name not in circuits_open and number > 0}
    return [each.record_id for each in planning.due(connection, closed, circuits_open)]


def planned(connection: Connection, capacity: dict[str, int], *circuits_open: str) -> list[tuple[int, list[str]]]:
    """What the planner makes of what it finds: (record, destinations)."""
    now = deliveries.clock(connection)
    ids = dict.fromkeys(found(connection, capacity, *circuits_open))
    records = {record.record_id: record for record in deliveries.of_records(connection, ids)}
    runs = plan((records[record_id] for record_id in ids), capacity, circuits_open, now)
    return [(run.record_id, [item.destination for item in run.deliveries]) for run in runs]


def test_a_new_record_is_found_by_the_delivery_that_waits_for_nothing(connection: Connection) -> None:
    record_id = add_record(connection, "session", ELABFTW, CDCS, LABARCHIVES)
    assert planning.due(connection, WIDE, ()) == [planning.Due(record_id, "cdcs", quarantined=False)]
    assert planned(connection, WIDE) == [(record_id, ["cdcs", "labarchives", "elabftw"])]


def test_a_record_without_deliveries_is_not_found(connection: Connection) -> None:
    add_record(connection, "session")
    assert found(connection, WIDE) == []


@pytest.mark.parametrize(
    "capacity", [WIDE, {"cdcs": 0, "labarchives": 16, "elabftw": 16}, {"cdcs": 3, "labarchives": 1}, {}]
)
def test_what_is_found_of_a_long_backlog_and_read_for_it_is_bounded_by_capacity(
    connection: Connection, capacity: dict[str, int]
) -> None:
    add_backlog(connection, BACKLOG, CDCS, LABARCHIVES, ELABFTW)
    most = capacity.get("cdcs", 0)  # the notebooks wait for it
    before = rows_read(connection)
    assert len(planned(connection, capacity)) == most
    assert rows_read(connection) - before <= READ_ANYHOW + most * READ_FOR_EACH


@pytest.mark.parametrize("waiting", [BACKLOG, 5 * BACKLOG])
def test_a_planning_behind_an_open_circuit_reads_no_more_of_a_longer_backlog(
    connection: Connection, waiting: int
) -> None:
    """The notebooks do not wait for CDCS then: as many of them are read as may go."""
    add_backlog(connection, waiting, CDCS, LABARCHIVES, ELABFTW)
    before = rows_read(connection)
    runs = planned(connection, {"labarchives": 1, "elabftw": 16}, "cdcs")
    assert sum(len(names) for _, names in runs) == 17
    assert rows_read(connection) - before <= READ_ANYHOW + 17 * READ_FOR_EACH
    before = rows_read(connection)
    assert found(connection, {}, "cdcs", "labarchives", "elabftw") == []
    assert found(connection, {"cdcs": 1}, "labarchives", "elabftw") != []  # its probe
    assert rows_read(connection) - before <= READ_ANYHOW


def test_a_backlog_of_deliveries_in_open_runs_is_read_only_as_far_as_there_are_runs(connection: Connection) -> None:
    add_backlog(connection, BACKLOG, CDCS)
    first = found(connection, {"cdcs": 16})
    for record in deliveries.of_records(connection, first):
        add_run(connection, record.record_id, [row.id for row in record.deliveries])
    before = rows_read(connection)
    more = found(connection, {"cdcs": 4})
    assert len(more) == 4
    assert not set(more) & set(first)
    assert rows_read(connection) - before <= READ_ANYHOW + (16 + 4) * READ_FOR_EACH


def test_a_backlog_behind_a_slow_destination_does_not_hold_the_others_back(engine: Engine) -> None:
    with transaction(engine) as connection:
        add_backlog(connection, BACKLOG, CDCS, LABARCHIVES)
        arrived = "UPDATE delivery SET state = 'succeeded', succeeded_at = now() WHERE destination = 'cdcs'"
        connection.execute(text(arrived))
        connection.execute(text("UPDATE delivery SET waits_for = '' WHERE destination = 'labarchives'"))
        newest = add_record(connection, "newest", CDCS, LABARCHIVES)
    vacuum(engine)
    with transaction(engine) as connection:
        before = rows_read(connection)
        runs = planned(connection, {"cdcs": 16, "labarchives": 1})
        assert (newest, ["cdcs"]) in runs
        assert len(runs) == 2
        assert rows_read(connection) - before <= READ_ANYHOW + 2 * READ_FOR_EACH


@pytest.mark.parametrize("strategy", [Strategy.ALL, Strategy.FIRST_SUCCESS])
def test_a_backlog_that_postgresql_knows_nothing_of_yet_is_not_looked_through(
    engine: Engine, strategy: Strategy
) -> None:
    """A destination was added to records that are done, and PostgreSQL has not counted since."""
    with transaction(engine) as connection:
        add_backlog(connection, BACKLOG, CDCS, strategy=strategy)
        connection.execute(text("UPDATE delivery SET state = 'succeeded', succeeded_at = now()"))
    vacuum(engine)
    with transaction(engine) as connection:
        everything = connection.execute(text("SELECT id FROM record")).scalars().all()
        assert handover.add_deliveries(connection, everything, [ELABFTW]) == BACKLOG
        before = rows_read(connection)
        assert len(found(connection, {"elabftw": 16})) == 16
        assert rows_read(connection) - before <= READ_ANYHOW + 16 * READ_FOR_EACH


def test_the_longest_due_are_taken_first(connection: Connection) -> None:
    records = [add_record(connection, f"session-{number}", CDCS) for number in range(5)]
    assert found(connection, {"cdcs": 2}) == records[:2]
    set_delivery(connection, records[4], "cdcs", DeliveryState.RETRYING, -60)
    assert found(connection, {"cdcs": 2}) == [records[4], records[0]]


def test_a_record_in_an_open_run_is_not_found_until_it_is_closed(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ELABFTW)
    first = deliveries.of_record(connection, record_id).deliveries[0]
    run_id, _, _ = add_run(connection, record_id, [first.id])
    assert found(connection, WIDE) == []
    planning.cancel_run(connection, run_id)
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
            {"id": record_id, "open": RunState.OPEN},
        )
    engine.dispose()


@pytest.mark.parametrize(
    ("state", "wait", "is_due"),
    [
        (DeliveryState.PENDING, 0, True),
        (DeliveryState.RETRYING, -1, True),
        (DeliveryState.RETRYING, 0, True),
        (DeliveryState.RETRYING, 60, False),
        (DeliveryState.SUCCEEDED, 0, False),
        (DeliveryState.FAILED, 0, False),
        (DeliveryState.SKIPPED, 0, False),
    ],
)
def test_a_delivery_is_found_when_it_is_due(
    connection: Connection, state: DeliveryState, wait: float, *, is_due: bool
) -> None:
    record_id = add_record(connection, "session", CDCS)
    set_delivery(connection, record_id, "cdcs", state, wait)
    assert found(connection, WIDE) == ([record_id] if is_due else [])


def test_a_pending_dependency_without_capacity_holds_its_dependent_back(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ELABFTW)
    assert found(connection, {"cdcs": 0, "elabftw": 16}) == []
    assert found(connection, {"cdcs": 0, "elabftw": 16}, "cdcs") == [record_id]


def test_one_that_waits_for_several_goes_when_all_their_circuits_are_open(connection: Connection) -> None:
    archive = DestinationSnapshot("archive", 10, ("cdcs", "labarchives"), (), updates=True)
    record_id = add_record(connection, "session", CDCS, LABARCHIVES, archive)
    assert found(connection, {"archive": 1}, "cdcs") == []
    assert found(connection, {"archive": 1}, "cdcs", "labarchives") == [record_id]


@pytest.mark.parametrize(
    "state", [DeliveryState.RETRYING, DeliveryState.SUCCEEDED, DeliveryState.FAILED, DeliveryState.SKIPPED]
)
def test_a_dependency_that_was_tried_does_not_hold_its_dependent_back(
    connection: Connection, state: DeliveryState
) -> None:
    record_id = add_record(connection, "session", CDCS, ELABFTW)
    set_delivery(connection, record_id, "cdcs", state, 60 if state is DeliveryState.RETRYING else 0)
    assert found(connection, {"elabftw": 1}) == [record_id]


@pytest.mark.parametrize("state", [DeliveryState.PENDING, DeliveryState.RETRYING])
def test_what_is_required_holds_its_dependent_back_until_it_is_there(
    connection: Connection, state: DeliveryState
) -> None:
    mirror = DestinationSnapshot("mirror", 50, (), ("cdcs",), updates=False)
    record_id = add_record(connection, "session", CDCS, mirror)
    set_delivery(connection, record_id, "cdcs", state, 60 if state is DeliveryState.RETRYING else 0)
    assert found(connection, {"mirror": 1}) == []
    assert found(connection, {"mirror": 1}, "cdcs") == []
    set_delivery(connection, record_id, "cdcs", DeliveryState.SUCCEEDED)
    assert found(connection, {"mirror": 1}) == [record_id]


def test_a_destination_whose_circuit_is_open_is_sent_nothing(connection: Connection) -> None:
    add_record(connection, "session", CDCS)
    assert planned(connection, WIDE, "cdcs") == []


def test_first_success_waits_for_the_capacity_of_the_next_by_priority(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    assert planned(connection, {"cdcs": 0, "elabftw": 16}) == []
    assert planned(connection, {"cdcs": 1, "elabftw": 16}) == [(record_id, ["cdcs"])]


def test_first_success_moves_on_after_a_failure(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    set_delivery(connection, record_id, "cdcs", DeliveryState.RETRYING, 60)
    assert planned(connection, WIDE) == [(record_id, ["elabftw"])]


def test_first_success_does_not_wait_for_a_destination_whose_circuit_is_open(connection: Connection) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    assert planned(connection, WIDE, "cdcs") == [(record_id, ["elabftw"])]


def test_a_record_that_waits_for_another_destination_takes_nobodys_place(connection: Connection) -> None:
    """Under first_success, one whose CDCS has failed goes to eLabFTW next, which is full: CDCS has room for others."""
    stuck = add_record(connection, "stuck", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    set_delivery(connection, stuck, "cdcs", DeliveryState.RETRYING, -1)
    other = add_record(connection, "other", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    assert planned(connection, {"cdcs": 1, "elabftw": 0}) == [(other, ["cdcs"])]


def probed(connection: Connection, destination: str, *circuits_open: str) -> int | None:
    """The record that probes the destination whose circuit is half-open, while others are open as well."""
    due = planning.due(connection, {destination: 1}, {destination, *circuits_open})
    return due[0].record_id if due else None


def test_a_probe_does_not_go_before_what_its_record_sends_first(connection: Connection) -> None:
    new = add_record(connection, "new", CDCS, ELABFTW)
    assert probed(connection, "elabftw") is None
    tried = add_record(connection, "tried", CDCS, ELABFTW)
    set_delivery(connection, tried, "cdcs", DeliveryState.RETRYING, 60)
    assert probed(connection, "elabftw") == tried
    set_delivery(connection, tried, "elabftw", DeliveryState.PENDING, 60)
    assert probed(connection, "elabftw", "cdcs") == new


@pytest.mark.parametrize(
    ("other", "is_probed"),
    [(DeliveryState.PENDING, False), (DeliveryState.RETRYING, True), (DeliveryState.FAILED, True)],
)
def test_under_first_success_a_probe_does_not_go_before_a_destination_of_higher_rank(
    connection: Connection, other: DeliveryState, *, is_probed: bool
) -> None:
    record_id = add_record(connection, "session", CDCS, ALONE, strategy=Strategy.FIRST_SUCCESS)
    set_delivery(connection, record_id, "cdcs", other, 60 if other is DeliveryState.RETRYING else 0)
    assert probed(connection, "elabftw") == (record_id if is_probed else None)
    assert probed(connection, "elabftw", "cdcs") == record_id


def test_under_first_success_a_probe_waits_for_none_that_waits_for_it(connection: Connection) -> None:
    top = DestinationSnapshot("top", 200, ("middle",), (), updates=True)
    middle = DestinationSnapshot("middle", 10, (), ("cdcs",), updates=True)
    record_id = add_record(connection, "session", top, CDCS, middle, strategy=Strategy.FIRST_SUCCESS)
    assert probed(connection, "cdcs") == record_id


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_the_query_finds_what_the_plan_takes(
    connection: Connection, records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    """The rules are in the pure module, and an index answers by what they said."""
    ample = {name: len(records) for name, number in capacity.items() if number and name not in circuits_open}
    with connection.begin_nested() as nested:
        add_all(connection, records)
        due = planning.due(connection, ample, circuits_open)
        nested.rollback()
    ordinary = [(each.record_id, each.destination) for each in due if not each.quarantined]
    assert len(set(ordinary)) == len(ordinary)
    assert set(ordinary) == {
        (each.record_id, row.destination)
        for each in records
        for row in each.deliveries
        if row.destination in ample and selected(row, circuits_open)
    }
    assert {run.record_id for run in plan(records, ample, circuits_open, NOW)} == {number for number, _ in ordinary}


def add_all(connection: Connection, records: Collection[RecordDeliveries]) -> None:
    connection.execute(
        text(
            "INSERT INTO record (id, session_identifier, instrument_pid, dt_from, dt_to, timezone, document, sha256,"
            " activities, strategy) OVERRIDING SYSTEM VALUE SELECT number, 'session-' || number, '', now(), now(),"
            " 'UTC', '', '', '[]', 'all' FROM unnest(CAST(:numbers AS int[])) AS number"
        ),
        {"numbers": [each.record_id for each in records]},
    )
    rows = [
        {
            "record_id": each.record_id,
            "destination": row.destination,
            "state": row.state,
            "waits_for": row.waits_for,
            "wait": 0 if row.next_attempt_at is None else (row.next_attempt_at - NOW).total_seconds(),
        }
        for each in records
        for row in each.deliveries
    ]
    connection.execute(
        text(
            "INSERT INTO delivery (record_id, destination, priority, depends_on, requires, updates, state, waits_for,"
            " next_attempt_at) SELECT record_id, destination, 0, '{}', '{}', true, state, waits_for,"
            " now() + wait * interval '1 second' FROM jsonb_to_recordset(CAST(:rows AS jsonb))"
            " AS given (record_id int, destination text, state text, waits_for text, wait float)"
        ),
        {"rows": json.dumps(rows)},
    )
