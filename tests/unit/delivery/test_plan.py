from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.db.rows import QUARANTINE, DeliveryRow, RecordDeliveries
from nexus_tasks.delivery.plan import REQUIRED, UNRESOLVED, PlannedRun, plan, single, waits_for
from nexus_tasks.delivery.strategy import verdict
from nexus_tasks.states import DeliveryState, RunKind, Strategy

NOW = datetime(2025, 1, 27, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
EARLIER = NOW - timedelta(minutes=5)
PENDING, RETRYING = DeliveryState.PENDING, DeliveryState.RETRYING
SUCCEEDED, FAILED, SKIPPED = DeliveryState.SUCCEEDED, DeliveryState.FAILED, DeliveryState.SKIPPED
PRIORITIES = {"cdcs": 100, "labarchives": 90, "elabftw": 85}
WIDE = dict.fromkeys(PRIORITIES, 16)

Stages = list[list[str]]


def delivery(
    destination: str,
    state: DeliveryState = PENDING,
    *,
    priority: int | None = None,
    depends_on: tuple[str, ...] | None = None,
    requires: tuple[str, ...] = (),
    next_attempt_at: datetime | None = None,
    deaths: int = 0,
    unresolved: bool = False,
) -> DeliveryRow:
    """A delivery as a snapshot has it by default: the notebooks depend on CDCS."""
    if depends_on is None:
        depends_on = ("cdcs",) if destination in {"labarchives", "elabftw"} else ()
    return DeliveryRow(
        id=0,
        record_id=0,
        destination=destination,
        priority=PRIORITIES.get(destination, 50) if priority is None else priority,
        depends_on=depends_on,
        requires=requires,
        state=state,
        failures=1 if state is RETRYING else 0,
        deaths=deaths,
        unresolved=unresolved,
        next_attempt_at=next_attempt_at or (EARLIER if state is RETRYING else None),
        error_message=None,
        remote_record_id=None,
        remote_record_url=None,
        succeeded_at=EARLIER if state is SUCCEEDED else None,
    )


def record(*deliveries: DeliveryRow, record_id: int = 1, strategy: Strategy = Strategy.ALL) -> RecordDeliveries:
    """A record whose deliveries have ids of their own and what they wait for, the highest priority first, as stored."""
    ranked = sorted(deliveries, key=lambda item: (-item.priority, item.destination))
    rows = tuple(replace(item, id=100 * record_id + number, record_id=record_id) for number, item in enumerate(ranked))
    return waiting(RecordDeliveries(record_id, strategy, rows))


def waiting(rows: RecordDeliveries) -> RecordDeliveries:
    """The record with what its deliveries wait for."""
    waits = waits_for(rows)
    return replace(
        rows, deliveries=tuple(replace(row, waits_for=waits.get(row.id, row.waits_for)) for row in rows.deliveries)
    )


def reconciled(rows: RecordDeliveries) -> RecordDeliveries:
    """The record as reconcile leaves it: without what is not wanted any more."""
    skipped = verdict(rows).skip
    return waiting(
        replace(
            rows,
            deliveries=tuple(replace(row, state=SKIPPED) if row.id in skipped else row for row in rows.deliveries),
        )
    )


def waits(rows: RecordDeliveries) -> dict[str, str]:
    """What each delivery that is not final waits for, by destination."""
    found = waits_for(rows)
    return {row.destination: found[row.id] for row in rows.deliveries if row.id in found}


def usual(record_id: int = 1, **states: DeliveryState) -> RecordDeliveries:
    """A record for CDCS and the two notebooks, everything pending but what is named."""
    return record(*(delivery(name, states.get(name, PENDING)) for name in PRIORITIES), record_id=record_id)


def planned(
    *records: RecordDeliveries, capacity: Mapping[str, int] = WIDE, circuits_open: Collection[str] = ()
) -> dict[int, Stages]:
    """What is planned, in words: record id → stages of destinations."""
    return {run.record_id: in_words(run) for run in plan(records, capacity, circuits_open, NOW)}


def in_words(run: PlannedRun) -> Stages:
    return [[item.destination for item in stage] for stage in run.stages]


def test_cdcs_goes_first_and_the_notebooks_follow_side_by_side() -> None:
    assert planned(usual()) == {1: [["cdcs"], ["labarchives", "elabftw"]]}


def test_a_run_lists_its_deliveries_stage_after_stage() -> None:
    [run] = plan([usual()], WIDE, (), NOW)
    assert [item.destination for item in run.deliveries] == ["cdcs", "labarchives", "elabftw"]


def test_nothing_due_is_no_run() -> None:
    assert planned() == {}
    assert planned(record()) == {}
    assert planned(usual(cdcs=SUCCEEDED, labarchives=FAILED, elabftw=SKIPPED)) == {}


@pytest.mark.parametrize("final", [SUCCEEDED, FAILED, SKIPPED])
def test_a_final_dependency_is_not_waited_for(final: DeliveryState) -> None:
    assert planned(usual(cdcs=final)) == {1: [["labarchives", "elabftw"]]}


@pytest.mark.parametrize(
    ("state", "next_attempt_at", "goes"),
    [
        (PENDING, None, True),
        (RETRYING, EARLIER, True),
        (RETRYING, NOW, True),
        (RETRYING, NOW + timedelta(microseconds=1), False),
        (RETRYING, LATER, False),
        (SUCCEEDED, None, False),
        (FAILED, None, False),
        (SKIPPED, None, False),
    ],
)
def test_a_delivery_goes_when_its_time_has_come(
    state: DeliveryState, next_attempt_at: datetime | None, *, goes: bool
) -> None:
    plans = planned(record(delivery("cdcs", state, next_attempt_at=next_attempt_at)))
    assert plans == ({1: [["cdcs"]]} if goes else {})


def test_capacity_is_given_to_the_records_in_their_order() -> None:
    records = [usual(number) for number in (1, 2, 3)]
    plans = planned(*records, capacity={"cdcs": 2, "labarchives": 16, "elabftw": 16})
    assert plans == {number: [["cdcs"], ["labarchives", "elabftw"]] for number in (1, 2)}


def test_a_destination_that_is_not_named_has_no_capacity() -> None:
    assert planned(usual(cdcs=SUCCEEDED), capacity={"elabftw": 1}) == {1: [["elabftw"]]}
    assert planned(usual(), capacity={}) == {}


def test_a_full_destination_holds_back_only_its_own_deliveries() -> None:
    assert planned(usual(), capacity=WIDE | {"labarchives": 0}) == {1: [["cdcs"], ["elabftw"]]}


def test_a_capacity_of_one_lets_one_record_through_and_the_others_go_without() -> None:
    plans = planned(usual(1), usual(2), capacity=WIDE | {"labarchives": 1})
    assert plans == {1: [["cdcs"], ["labarchives", "elabftw"]], 2: [["cdcs"], ["elabftw"]]}


def test_a_dependency_without_capacity_holds_its_dependents_back() -> None:
    assert planned(usual(), capacity=WIDE | {"cdcs": 0}) == {}


def test_scarce_capacity_goes_first_to_those_that_nothing_holds_back() -> None:
    plans = planned(usual(1), usual(2, cdcs=SUCCEEDED), capacity=WIDE | {"labarchives": 1})
    assert plans == {1: [["cdcs"], ["elabftw"]], 2: [["labarchives", "elabftw"]]}


def test_a_dependency_that_has_failed_a_run_does_not_hold_its_dependents_back() -> None:
    cdcs = delivery("cdcs", RETRYING, next_attempt_at=LATER)
    plans = planned(record(cdcs, delivery("labarchives"), delivery("elabftw")))
    assert plans == {1: [["labarchives", "elabftw"]]}


def test_a_dependency_that_has_failed_a_run_still_goes_first_when_it_is_due_as_well() -> None:
    assert planned(usual(cdcs=RETRYING)) == {1: [["cdcs"], ["labarchives", "elabftw"]]}


def test_a_dependency_that_has_failed_a_run_and_has_no_capacity_is_not_waited_for() -> None:
    assert planned(usual(cdcs=RETRYING), capacity=WIDE | {"cdcs": 0}) == {1: [["labarchives", "elabftw"]]}


def test_a_dependency_whose_circuit_is_open_does_not_hold_its_dependents_back() -> None:
    assert planned(usual(), circuits_open={"cdcs"}) == {1: [["labarchives", "elabftw"]]}


def test_a_destination_whose_circuit_is_open_is_given_nothing() -> None:
    assert planned(usual(), circuits_open={"elabftw"}) == {1: [["cdcs"], ["labarchives"]]}
    assert planned(usual(), circuits_open=set(PRIORITIES)) == {}


def requiring(state: DeliveryState) -> RecordDeliveries:
    return record(delivery("cdcs", state), delivery("mirror", depends_on=(), requires=("cdcs",)))


def test_what_is_required_goes_first_in_the_same_run() -> None:
    assert planned(requiring(PENDING), capacity={"cdcs": 1, "mirror": 1}) == {1: [["cdcs"], ["mirror"]]}


def test_what_is_required_and_there_lets_its_dependent_go() -> None:
    assert planned(requiring(SUCCEEDED), capacity={"cdcs": 1, "mirror": 1}) == {1: [["mirror"]]}


@pytest.mark.parametrize("state", [FAILED, SKIPPED])
def test_what_requires_one_that_failed_does_not_go(state: DeliveryState) -> None:
    assert planned(requiring(state), capacity={"cdcs": 1, "mirror": 1}) == {}


@pytest.mark.parametrize("state", [PENDING, RETRYING])
def test_what_requires_one_without_capacity_or_behind_an_open_circuit_does_not_go(state: DeliveryState) -> None:
    assert planned(requiring(state), capacity={"cdcs": 0, "mirror": 1}) == {}
    assert planned(requiring(state), capacity={"cdcs": 1, "mirror": 1}, circuits_open={"cdcs"}) == {}


def test_what_requires_one_whose_time_has_not_come_does_not_go() -> None:
    waiting = delivery("cdcs", RETRYING, next_attempt_at=LATER)
    mirror = delivery("mirror", depends_on=(), requires=("cdcs",))
    assert planned(record(waiting, mirror), capacity={"cdcs": 1, "mirror": 1}) == {}


def test_what_requires_an_unknown_destination_does_not_go() -> None:
    assert planned(record(delivery("mirror", requires=("carrier_pigeon",))), capacity={"mirror": 1}) == {}


def test_an_unknown_dependency_is_not_waited_for() -> None:
    assert planned(record(delivery("elabftw")), capacity={"elabftw": 1}) == {1: [["elabftw"]]}


CHAIN = (
    delivery("a", priority=30),
    delivery("b", priority=20, depends_on=("a",)),
    delivery("c", priority=10, depends_on=("b",)),
)


@pytest.mark.parametrize(
    ("capacity", "circuits_open", "stages"),
    [
        ({"a": 1, "b": 1, "c": 1}, set(), [["a"], ["b"], ["c"]]),
        ({"a": 1, "b": 0, "c": 1}, set(), [["a"]]),
        ({"a": 1, "b": 1, "c": 0}, set(), [["a"], ["b"]]),
        ({"a": 0, "b": 1, "c": 1}, set(), []),
        ({"a": 1, "b": 1, "c": 1}, {"a"}, [["b"], ["c"]]),
        ({"a": 1, "b": 1, "c": 1}, {"b"}, [["a", "c"]]),
    ],
)
def test_a_chain_of_dependencies_goes_in_as_many_stages(
    capacity: dict[str, int], circuits_open: set[str], stages: Stages
) -> None:
    assert planned(record(*CHAIN), capacity=capacity, circuits_open=circuits_open) == ({1: stages} if stages else {})


def test_a_dependency_of_lower_priority_still_goes_first() -> None:
    first = delivery("last", priority=1)
    second = delivery("top", priority=99, depends_on=("last",))
    assert planned(record(first, second), capacity={"top": 1, "last": 1}) == {1: [["last"], ["top"]]}


def one_of(**states: DeliveryState | datetime) -> RecordDeliveries:
    """A record under `first_success`; a time stands for a delivery that waits until then."""
    deliveries = []
    for name in PRIORITIES:
        state = states.get(name, PENDING)
        if isinstance(state, datetime):
            deliveries.append(delivery(name, RETRYING, next_attempt_at=state))
        else:
            deliveries.append(delivery(name, state))
    return record(*deliveries, strategy=Strategy.FIRST_SUCCESS)


@pytest.mark.parametrize(
    ("states", "stages"),
    [
        ({}, [["cdcs"]]),
        ({"cdcs": LATER}, [["labarchives"]]),
        ({"cdcs": EARLIER}, [["labarchives"]]),  # one that was not tried yet comes before a second try
        ({"cdcs": FAILED}, [["labarchives"]]),
        ({"cdcs": FAILED, "labarchives": LATER}, [["elabftw"]]),
        ({"cdcs": EARLIER, "labarchives": EARLIER, "elabftw": EARLIER}, [["cdcs"]]),
        ({"cdcs": LATER, "labarchives": EARLIER, "elabftw": EARLIER}, [["labarchives"]]),
        ({"cdcs": LATER, "labarchives": LATER, "elabftw": LATER}, []),
    ],
)
def test_first_success_goes_to_one_at_a_time_and_moves_on_after_a_failure(
    states: dict[str, DeliveryState | datetime], stages: Stages
) -> None:
    assert planned(one_of(**states)) == ({1: stages} if stages else {})


def test_first_success_sends_to_no_other_destination_once_one_holds_the_record() -> None:
    assert planned(reconciled(one_of(labarchives=SUCCEEDED))) == {}
    update = replace(delivery("labarchives", PENDING), succeeded_at=EARLIER)
    higher, lower = delivery("higher", priority=95), delivery("elabftw", depends_on=())
    rebuilt = record(higher, update, lower, strategy=Strategy.FIRST_SUCCESS)
    assert planned(reconciled(rebuilt)) == {1: [["labarchives"]]}


def test_first_success_does_not_skip_a_destination_for_lack_of_capacity() -> None:
    assert planned(one_of(), capacity=WIDE | {"cdcs": 0}) == {}


def test_first_success_does_not_wait_for_a_destination_whose_circuit_is_open() -> None:
    assert planned(one_of(), circuits_open={"cdcs"}) == {1: [["labarchives"]]}


@pytest.mark.parametrize("state", [PENDING, RETRYING])
def test_a_delivery_in_which_workers_died_twice_is_not_planned_with_others(state: DeliveryState) -> None:
    once, twice = delivery("cdcs", state, deaths=1), delivery("cdcs", state, deaths=2)
    assert planned(record(once)) == {1: [["cdcs"]]}
    assert planned(record(twice)) == {}


@pytest.mark.parametrize("state", [PENDING, RETRYING])
def test_what_depends_on_one_that_kills_its_workers_goes_without_it(state: DeliveryState) -> None:
    quarantined = delivery("cdcs", state, deaths=2)
    plans = planned(record(quarantined, delivery("labarchives"), delivery("elabftw")))
    assert plans == {1: [["labarchives", "elabftw"]]}


def test_what_requires_one_that_kills_its_workers_does_not_go() -> None:
    mirror = delivery("mirror", depends_on=(), requires=("cdcs",))
    assert planned(record(delivery("cdcs", deaths=2), mirror), capacity={"cdcs": 1, "mirror": 1}) == {}


def test_a_run_of_one_delivery_has_one_stage_and_its_kind() -> None:
    run = single(usual(7), "elabftw", RunKind.PROBE)
    assert (run.record_id, run.kind, in_words(run)) == (7, RunKind.PROBE, [["elabftw"]])


@pytest.mark.parametrize(
    ("next_attempt_at", "circuits_open", "stages"),
    [
        (EARLIER, set(), [["cdcs"]]),  # it is resolved first
        (LATER, set(), []),  # nothing else before it can be resolved
        (EARLIER, {"cdcs"}, []),
    ],
)
def test_first_success_starts_no_other_destination_while_it_is_unknown_what_one_holds(
    next_attempt_at: datetime, circuits_open: set[str], stages: Stages
) -> None:
    unresolved = delivery("cdcs", RETRYING, next_attempt_at=next_attempt_at, unresolved=True)
    rows = record(unresolved, delivery("labarchives"), delivery("elabftw"), strategy=Strategy.FIRST_SUCCESS)
    assert planned(rows, circuits_open=circuits_open) == ({1: stages} if stages else {})


def test_first_success_is_not_stuck_behind_a_dependency_that_is_due_again() -> None:
    """CDCS was abandoned, a worker died in eLabFTW, and a rebuild has made CDCS due again."""
    rows = record(delivery("cdcs"), delivery("elabftw", unresolved=True), strategy=Strategy.FIRST_SUCCESS)
    assert planned(rows) == {1: [["elabftw"]]}


def test_first_success_goes_on_after_one_was_abandoned_with_an_unknown_outcome() -> None:
    failed = delivery("cdcs", FAILED, unresolved=True)
    assert planned(record(failed, delivery("elabftw"), strategy=Strategy.FIRST_SUCCESS)) == {1: [["elabftw"]]}


@pytest.mark.parametrize("strategy", [Strategy.ALL, Strategy.BEST_EFFORT])
def test_the_others_do_not_wait_until_a_lost_answer_is_resolved(strategy: Strategy) -> None:
    unresolved = delivery("cdcs", RETRYING, next_attempt_at=LATER, unresolved=True)
    assert planned(record(unresolved, delivery("elabftw"), strategy=strategy)) == {1: [["elabftw"]]}


def test_first_success_tries_again_what_another_one_requires() -> None:
    """CDCS has failed once and its time has come; what requires it cannot go, and must not be waited for."""
    mirror = delivery("mirror", depends_on=(), requires=("cdcs",))
    rows = record(delivery("cdcs", RETRYING), mirror, strategy=Strategy.FIRST_SUCCESS)
    assert planned(rows, capacity={"cdcs": 1, "mirror": 1}) == {1: [["cdcs"]]}


@pytest.mark.parametrize(
    "top",
    [
        delivery("top", priority=99, depends_on=("last",)),
        delivery("top", priority=99, depends_on=(), requires=("last",)),
    ],
)
def test_first_success_is_not_stuck_behind_one_that_waits_for_a_less_important_one(top: DeliveryRow) -> None:
    rows = record(top, delivery("last", priority=1), strategy=Strategy.FIRST_SUCCESS)
    assert planned(rows, capacity={"top": 1, "last": 1}) != {}


# --- what is stored of each delivery that is not final


def test_a_new_record_waits_for_cdcs_only() -> None:
    assert waits(usual()) == {"cdcs": "", "labarchives": "cdcs", "elabftw": "cdcs"}


@pytest.mark.parametrize("tried", [RETRYING, SUCCEEDED, FAILED, SKIPPED])
def test_a_dependency_that_was_tried_is_not_awaited(tried: DeliveryState) -> None:
    rows = waits(usual(cdcs=tried))
    assert {rows["labarchives"], rows["elabftw"]} == {""}
    assert ("cdcs" in rows) is (tried is RETRYING)


def test_what_waits_for_several_names_them_all() -> None:
    archive = delivery("archive", depends_on=("labarchives", "cdcs", "carrier_pigeon"))
    assert waits(record(*usual().deliveries, archive))["archive"] == "cdcs,labarchives"


@pytest.mark.parametrize("state", [PENDING, RETRYING, FAILED, SKIPPED])
def test_what_is_required_is_awaited_until_it_is_there(state: DeliveryState) -> None:
    assert waits(requiring(state))["mirror"] == "required:cdcs"
    assert waits(requiring(SUCCEEDED)) == {"mirror": ""}


def test_what_is_required_and_was_there_once_is_not_awaited() -> None:
    rebuilt = replace(delivery("cdcs"), succeeded_at=EARLIER)
    mirror = delivery("mirror", depends_on=(), requires=("cdcs",))
    assert waits(record(rebuilt, mirror)) == {"cdcs": "", "mirror": ""}


def test_an_unknown_destination_is_awaited_only_where_it_is_required() -> None:
    rows = record(delivery("mirror", requires=("carrier_pigeon",)), delivery("elabftw"))
    assert waits(rows) == {"mirror": "required:carrier_pigeon", "elabftw": ""}


@pytest.mark.parametrize("state", [PENDING, RETRYING])
def test_one_that_kills_its_workers_waits_for_its_quarantine_and_nobody_depends_on_it(state: DeliveryState) -> None:
    rows = record(delivery("cdcs", state, deaths=2), delivery("elabftw"))
    assert waits(rows) == {"cdcs": QUARANTINE, "elabftw": ""}


def test_one_that_kills_its_workers_waits_for_what_it_requires_first() -> None:
    mirror = delivery("mirror", requires=("cdcs",), deaths=2)
    assert waits(record(delivery("cdcs"), mirror))["mirror"] == "required:cdcs"


@pytest.mark.parametrize(
    ("states", "awaited"),
    [
        ({}, {"cdcs": "", "labarchives": "cdcs", "elabftw": "cdcs"}),
        ({"cdcs": LATER}, {"cdcs": "labarchives,elabftw", "labarchives": "", "elabftw": "labarchives"}),
        ({"cdcs": FAILED, "labarchives": LATER}, {"labarchives": "elabftw", "elabftw": ""}),
        ({"cdcs": LATER, "labarchives": LATER, "elabftw": LATER}, {"cdcs": "", "labarchives": "", "elabftw": ""}),
    ],
)
def test_under_first_success_a_delivery_waits_for_those_before_it_and_after_a_failure_for_all_that_are_untried(
    states: dict[str, DeliveryState | datetime], awaited: dict[str, str]
) -> None:
    rows = waits(one_of(**states))
    assert {name: set(text.split(",")) for name, text in rows.items()} == {
        name: set(text.split(",")) for name, text in awaited.items()
    }


def test_under_first_success_nobody_waits_for_one_that_itself_waits() -> None:
    top = delivery("top", priority=200, depends_on=("middle",))
    middle = delivery("middle", priority=10, depends_on=(), requires=("cdcs",))
    rows = record(top, delivery("cdcs"), middle, strategy=Strategy.FIRST_SUCCESS)
    assert waits(rows)["cdcs"] == ""


def test_under_first_success_all_wait_for_what_one_may_have_left_behind() -> None:
    unresolved = delivery("cdcs", RETRYING, unresolved=True)
    rows = record(unresolved, delivery("labarchives"), delivery("elabftw"), strategy=Strategy.FIRST_SUCCESS)
    assert waits(rows) == {"cdcs": "", "labarchives": "unresolved:cdcs", "elabftw": "unresolved:cdcs"}


def test_what_may_have_left_something_behind_waits_for_nobody_but_what_it_requires() -> None:
    rows = record(delivery("cdcs"), delivery("elabftw", RETRYING, unresolved=True))
    assert waits(rows)["elabftw"] == ""


def test_what_is_final_waits_for_nothing() -> None:
    assert waits(usual(cdcs=SUCCEEDED, labarchives=FAILED, elabftw=SKIPPED)) == {}


NAMES = ("a", "b", "c", "d", "e")
GIVEN_CAPACITY = st.fixed_dictionaries({}, optional={name: st.integers(0, 3) for name in NAMES})
GIVEN_OPEN = st.sets(st.sampled_from(NAMES), max_size=2)


@st.composite
def some_record(draw: st.DrawFn, record_id: int) -> RecordDeliveries:
    """Any record whose dependencies have no circle, as a snapshot guarantees: they point to earlier names."""
    deliveries = []
    for position, name in enumerate(NAMES[: draw(st.integers(1, len(NAMES)))]):
        before = st.sampled_from([*NAMES[:position], "unknown"])
        requires = draw(st.sets(before, max_size=1))
        deliveries.append(
            delivery(
                name,
                draw(st.sampled_from(DeliveryState)),
                priority=draw(st.integers(0, 3)),
                depends_on=tuple(sorted(draw(st.sets(before, max_size=3)) - requires)),
                requires=tuple(requires),
                next_attempt_at=draw(st.sampled_from([EARLIER, NOW, LATER])),
                deaths=draw(st.sampled_from([0, 0, 0, 1, 2, 5])),
                unresolved=draw(st.sampled_from([False, False, True])),
            )
        )
    return record(*deliveries, record_id=record_id, strategy=draw(st.sampled_from(Strategy)))


@st.composite
def some_records(draw: st.DrawFn) -> list[RecordDeliveries]:
    return [draw(some_record(number)) for number in range(draw(st.integers(0, 4)))]


@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_no_plan_asks_for_more_capacity_than_there_is(
    records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    runs = plan(records, capacity, circuits_open, NOW)
    for name in NAMES:
        given_out = sum(item.destination == name for run in runs for item in run.deliveries)
        assert given_out <= capacity.get(name, 0)


@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_every_plan_is_one_run_a_record_and_one_delivery_a_destination(
    records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    runs = plan(records, capacity, circuits_open, NOW)
    assert len({run.record_id for run in runs}) == len(runs)
    rows = {item.record_id: set(item.deliveries) for item in records}
    for run in runs:
        names = [item.destination for item in run.deliveries]
        assert len(set(names)) == len(names)
        assert run.deliveries
        assert all(run.stages)
        assert set(run.deliveries) <= rows[run.record_id]


@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_no_plan_has_a_dependency_beside_or_after_its_dependent(
    records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    for run in plan(records, capacity, circuits_open, NOW):
        stage_of = {item.destination: number for number, stage in enumerate(run.stages) for item in stage}
        for item in run.deliveries:
            for name in {*item.depends_on, *item.requires} & stage_of.keys():
                assert stage_of[name] < stage_of[item.destination]


@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_no_plan_holds_what_is_behind_an_open_circuit_or_not_due(
    records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    for run in plan(records, capacity, circuits_open, NOW):
        for item in run.deliveries:
            assert item.due(NOW)
            assert item.destination not in circuits_open
            assert not item.quarantined


@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_no_plan_leaves_a_pending_dependency_behind(
    records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    everything = {item.record_id: {row.destination: row for row in item.deliveries} for item in records}
    for run in plan(records, capacity, circuits_open, NOW):
        siblings = everything[run.record_id]
        together = {item.destination for item in run.deliveries}
        for item in run.deliveries:
            assert all(name in together or siblings[name].has_succeeded for name in item.requires)
            behind = {*item.depends_on} & siblings.keys() - together - circuits_open
            first_success = next(each.strategy for each in records if each.record_id == run.record_id)
            if first_success is not Strategy.FIRST_SUCCESS and not item.unresolved:  # it is looked up at once
                assert not [
                    name for name in behind if siblings[name].state is PENDING and not siblings[name].quarantined
                ]


@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_first_success_never_has_two_deliveries_on_their_way(
    records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    one_at_a_time = {item.record_id for item in records if item.strategy is Strategy.FIRST_SUCCESS}
    for run in plan(records, capacity, circuits_open, NOW):
        assert run.record_id not in one_at_a_time or len(run.deliveries) == 1


@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_the_same_rows_give_the_same_plan(
    records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    capacity_before = dict(capacity)
    first = plan(records, capacity, circuits_open, NOW)
    assert plan(list(records), dict(reversed(capacity.items())), frozenset(circuits_open), NOW) == first
    assert capacity == capacity_before


@given(some_records(), GIVEN_OPEN)
def test_what_is_due_and_unhindered_is_never_starved(records: list[RecordDeliveries], circuits_open: set[str]) -> None:
    def unhindered(item: DeliveryRow, siblings: Mapping[str, DeliveryRow]) -> bool:
        return (
            item.due(NOW)
            and not item.quarantined
            and item.destination not in circuits_open
            and all(name in siblings and siblings[name].has_succeeded for name in item.requires)
            and all(siblings[name].state.final for name in item.depends_on if name in siblings)
        )

    anything = any(
        unhindered(item, {row.destination: row for row in each.deliveries})
        for each in records
        if each.strategy is not Strategy.FIRST_SUCCESS
        for item in each.deliveries
    )
    assert bool(plan(records, dict.fromkeys(NAMES, 1), circuits_open, NOW)) >= anything


@given(some_records())
def test_with_capacity_for_all_every_unhindered_delivery_goes(records: list[RecordDeliveries]) -> None:
    runs = plan(records, dict.fromkeys(NAMES, 100), (), NOW)
    gone = {item.id for run in runs for item in run.deliveries}
    for each in records:
        if each.strategy is Strategy.FIRST_SUCCESS:
            continue
        for item in each.deliveries:
            if item.due(NOW) and not item.requires and not item.quarantined:
                assert item.id in gone or any(
                    row.destination in item.depends_on
                    and row.id not in gone
                    and (row.due(NOW) or row.state is PENDING)  # an untried one goes first, whenever its time comes
                    for row in each.deliveries
                )


# --- what is stored and what is planned agree


def selected(row: DeliveryRow, circuits_open: Collection[str]) -> bool:
    """Whether the planner's query finds the delivery: due, and waiting for nothing but open circuits."""
    awaited = set(row.waits_for.split(",")) - {""}
    return row.due(NOW) and row.destination not in circuits_open and awaited <= set(circuits_open)


@given(some_records(), GIVEN_OPEN)
def test_the_query_finds_a_delivery_exactly_when_a_plan_takes_it_by_itself(
    records: list[RecordDeliveries], circuits_open: set[str]
) -> None:
    for each in records:
        for row in each.deliveries:
            runs = plan([each], {row.destination: 1}, circuits_open, NOW)
            assert [run.deliveries for run in runs] == ([(row,)] if selected(row, circuits_open) else [])


@given(some_records(), GIVEN_CAPACITY, GIVEN_OPEN)
def test_a_plan_makes_a_run_of_exactly_the_records_that_the_query_finds(
    records: list[RecordDeliveries], capacity: dict[str, int], circuits_open: set[str]
) -> None:
    """Each by itself: together they compete for capacity."""
    for each in records:
        found = [
            row for row in each.deliveries if selected(row, circuits_open) and capacity.get(row.destination, 0) > 0
        ]
        assert bool(plan([each], capacity, circuits_open, NOW)) is bool(found)


def reachable(rows: RecordDeliveries) -> RecordDeliveries:
    """The record as the engine can come to have it, with everything due.

    A delivery was attempted, so may have left something behind, only when what it requires was there.
    """
    holders = {row.destination for row in rows.deliveries if row.has_succeeded}
    return reconciled(
        replace(
            rows,
            deliveries=tuple(
                replace(row, next_attempt_at=EARLIER, unresolved=row.unresolved and holders.issuperset(row.requires))
                for row in rows.deliveries
            ),
        )
    )


@given(some_record(1))
def test_no_record_is_ever_stuck(rows: RecordDeliveries) -> None:
    """With all circuits closed, everything due and capacity for all, each unfinished record has a run to come."""
    rows = reachable(rows)
    unfinished = [row for row in rows.deliveries if not row.state.final]
    runs = plan([rows], dict.fromkeys(NAMES, 100), (), NOW)
    if unfinished and not runs:
        assert QUARANTINE in {row.waits_for for row in unfinished}  # a run of one is planned beside the others


@given(some_record(1))
def test_a_record_without_a_run_has_only_deliveries_that_wait_for_what_a_plan_cannot_give(
    rows: RecordDeliveries,
) -> None:
    rows = reachable(rows)
    unfinished = {row.destination: row for row in rows.deliveries if not row.state.final}
    if not plan([rows], dict.fromkeys(NAMES, 100), (), NOW):
        held = (REQUIRED, UNRESOLVED, QUARANTINE)
        for row in unfinished.values():
            assert row.waits_for.startswith(held) or all(
                unfinished[name].waits_for.startswith(held) for name in row.waits_for.split(",")
            )


@given(some_record(1))
def test_no_delivery_waits_in_a_circle(rows: RecordDeliveries) -> None:
    """Every wait leads, over whatever others wait for, to a delivery that waits for nothing or its quarantine."""
    rows = reachable(rows)
    awaited = {
        row.destination: set(row.waits_for.rpartition(":")[2].split(",")) - {""}
        for row in rows.deliveries
        if not row.state.final
    }
    while free := [name for name, others in awaited.items() if not others & awaited.keys()]:
        for name in free:
            assert awaited[name] <= {row.destination for row in rows.deliveries}
            del awaited[name]
    assert awaited == {}
