from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.delivery.plan import PlannedRun, plan, single
from nexus_tasks.states import DeliveryState, RunKind, Strategy

NOW = datetime(2025, 1, 27, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
EARLIER = NOW - timedelta(minutes=5)
PENDING, WAITING = DeliveryState.PENDING, DeliveryState.RETRYING
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
    """A delivery as it is frozen by default: the notebooks depend on CDCS."""
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
        failures=1 if state is WAITING else 0,
        deaths=deaths,
        unresolved=unresolved,
        next_attempt_at=next_attempt_at or (EARLIER if state is WAITING else None),
        error_message=None,
        remote_record_id=None,
        remote_record_url=None,
        succeeded_at=EARLIER if state is SUCCEEDED else None,
    )


def record(*deliveries: DeliveryRow, record_id: int = 1, strategy: Strategy = Strategy.ALL) -> RecordDeliveries:
    """A record whose deliveries have ids of their own, the highest priority first, as the query returns them."""
    ranked = sorted(deliveries, key=lambda item: (-item.priority, item.destination))
    rows = tuple(replace(item, id=100 * record_id + number, record_id=record_id) for number, item in enumerate(ranked))
    return RecordDeliveries(record_id, strategy, rows)


def usual(record_id: int = 1, **states: DeliveryState) -> RecordDeliveries:
    """A record for CDCS and the two notebooks, everything pending but what is named."""
    return record(*(delivery(name, states.get(name, PENDING)) for name in PRIORITIES), record_id=record_id)


def planned(
    *records: RecordDeliveries, room: Mapping[str, int] = WIDE, paused: Collection[str] = ()
) -> dict[int, Stages]:
    """What is planned, in words: record id → stages of destinations."""
    return {run.record_id: in_words(run) for run in plan(records, room, paused, NOW)}


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


@pytest.mark.parametrize("settled", [SUCCEEDED, FAILED, SKIPPED])
def test_a_settled_dependency_is_not_waited_for(settled: DeliveryState) -> None:
    assert planned(usual(cdcs=settled)) == {1: [["labarchives", "elabftw"]]}


@pytest.mark.parametrize(
    ("state", "next_attempt_at", "goes"),
    [
        (PENDING, None, True),
        (WAITING, EARLIER, True),
        (WAITING, NOW, True),
        (WAITING, NOW + timedelta(microseconds=1), False),
        (WAITING, LATER, False),
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


def test_room_is_given_to_the_records_in_their_order() -> None:
    records = [usual(number) for number in (1, 2, 3)]
    plans = planned(*records, room={"cdcs": 2, "labarchives": 16, "elabftw": 16})
    assert plans == {number: [["cdcs"], ["labarchives", "elabftw"]] for number in (1, 2)}


def test_a_destination_that_is_not_named_has_no_room() -> None:
    assert planned(usual(cdcs=SUCCEEDED), room={"elabftw": 1}) == {1: [["elabftw"]]}
    assert planned(usual(), room={}) == {}


def test_a_full_destination_holds_back_only_its_own_deliveries() -> None:
    assert planned(usual(), room=WIDE | {"labarchives": 0}) == {1: [["cdcs"], ["elabftw"]]}


def test_a_window_of_one_lets_one_record_through_and_the_others_go_without() -> None:
    plans = planned(usual(1), usual(2), room=WIDE | {"labarchives": 1})
    assert plans == {1: [["cdcs"], ["labarchives", "elabftw"]], 2: [["cdcs"], ["elabftw"]]}


def test_a_dependency_without_room_holds_its_dependents_back() -> None:
    assert planned(usual(), room=WIDE | {"cdcs": 0}) == {}


def test_scarce_room_goes_first_to_those_that_nothing_holds_back() -> None:
    plans = planned(usual(1), usual(2, cdcs=SUCCEEDED), room=WIDE | {"labarchives": 1})
    assert plans == {1: [["cdcs"], ["elabftw"]], 2: [["labarchives", "elabftw"]]}


def test_a_dependency_that_has_failed_a_run_does_not_hold_its_dependents_back() -> None:
    cdcs = delivery("cdcs", WAITING, next_attempt_at=LATER)
    plans = planned(record(cdcs, delivery("labarchives"), delivery("elabftw")))
    assert plans == {1: [["labarchives", "elabftw"]]}


def test_a_dependency_that_has_failed_a_run_still_goes_first_when_it_is_due_as_well() -> None:
    assert planned(usual(cdcs=WAITING)) == {1: [["cdcs"], ["labarchives", "elabftw"]]}


def test_a_dependency_that_has_failed_a_run_and_has_no_room_is_not_waited_for() -> None:
    assert planned(usual(cdcs=WAITING), room=WIDE | {"cdcs": 0}) == {1: [["labarchives", "elabftw"]]}


def test_a_paused_dependency_does_not_hold_its_dependents_back() -> None:
    assert planned(usual(), paused={"cdcs"}) == {1: [["labarchives", "elabftw"]]}


def test_a_paused_destination_is_given_nothing() -> None:
    assert planned(usual(), paused={"elabftw"}) == {1: [["cdcs"], ["labarchives"]]}
    assert planned(usual(), paused=set(PRIORITIES)) == {}


def requiring(state: DeliveryState) -> RecordDeliveries:
    return record(delivery("cdcs", state), delivery("mirror", depends_on=(), requires=("cdcs",)))


def test_what_is_required_goes_first_in_the_same_run() -> None:
    assert planned(requiring(PENDING), room={"cdcs": 1, "mirror": 1}) == {1: [["cdcs"], ["mirror"]]}


def test_what_is_required_and_there_lets_its_dependent_go() -> None:
    assert planned(requiring(SUCCEEDED), room={"cdcs": 1, "mirror": 1}) == {1: [["mirror"]]}


@pytest.mark.parametrize("state", [FAILED, SKIPPED])
def test_what_requires_one_that_failed_does_not_go(state: DeliveryState) -> None:
    assert planned(requiring(state), room={"cdcs": 1, "mirror": 1}) == {}


@pytest.mark.parametrize("state", [PENDING, WAITING])
def test_what_requires_one_without_room_or_paused_does_not_go(state: DeliveryState) -> None:
    assert planned(requiring(state), room={"cdcs": 0, "mirror": 1}) == {}
    assert planned(requiring(state), room={"cdcs": 1, "mirror": 1}, paused={"cdcs"}) == {}


def test_what_requires_one_that_waits_for_its_time_does_not_go() -> None:
    waiting = delivery("cdcs", WAITING, next_attempt_at=LATER)
    mirror = delivery("mirror", depends_on=(), requires=("cdcs",))
    assert planned(record(waiting, mirror), room={"cdcs": 1, "mirror": 1}) == {}


def test_what_requires_an_unknown_destination_does_not_go() -> None:
    assert planned(record(delivery("mirror", requires=("carrier_pigeon",))), room={"mirror": 1}) == {}


def test_an_unknown_dependency_is_not_waited_for() -> None:
    assert planned(record(delivery("elabftw")), room={"elabftw": 1}) == {1: [["elabftw"]]}


CHAIN = (
    delivery("a", priority=30),
    delivery("b", priority=20, depends_on=("a",)),
    delivery("c", priority=10, depends_on=("b",)),
)


@pytest.mark.parametrize(
    ("room", "paused", "stages"),
    [
        ({"a": 1, "b": 1, "c": 1}, set(), [["a"], ["b"], ["c"]]),
        ({"a": 1, "b": 0, "c": 1}, set(), [["a"]]),
        ({"a": 1, "b": 1, "c": 0}, set(), [["a"], ["b"]]),
        ({"a": 0, "b": 1, "c": 1}, set(), []),
        ({"a": 1, "b": 1, "c": 1}, {"a"}, [["b"], ["c"]]),
        ({"a": 1, "b": 1, "c": 1}, {"b"}, [["a", "c"]]),
    ],
)
def test_a_chain_of_dependencies_goes_in_as_many_stages(room: dict[str, int], paused: set[str], stages: Stages) -> None:
    assert planned(record(*CHAIN), room=room, paused=paused) == ({1: stages} if stages else {})


def test_a_dependency_of_lower_priority_still_goes_first() -> None:
    first = delivery("last", priority=1)
    second = delivery("top", priority=99, depends_on=("last",))
    assert planned(record(first, second), room={"top": 1, "last": 1}) == {1: [["last"], ["top"]]}


def one_of(**states: DeliveryState | datetime) -> RecordDeliveries:
    """A record under `first_success`; a time stands for a delivery that waits until then."""
    deliveries = []
    for name in PRIORITIES:
        state = states.get(name, PENDING)
        if isinstance(state, datetime):
            deliveries.append(delivery(name, WAITING, next_attempt_at=state))
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
    assert planned(one_of(labarchives=SUCCEEDED)) == {}
    update = replace(delivery("labarchives", PENDING), succeeded_at=EARLIER)
    higher, lower = delivery("higher", priority=95), delivery("elabftw", depends_on=())
    assert planned(record(higher, update, lower, strategy=Strategy.FIRST_SUCCESS)) == {1: [["labarchives"]]}


def test_first_success_does_not_skip_a_destination_for_lack_of_room() -> None:
    assert planned(one_of(), room=WIDE | {"cdcs": 0}) == {}


def test_first_success_does_not_wait_for_a_paused_destination() -> None:
    assert planned(one_of(), paused={"cdcs"}) == {1: [["labarchives"]]}


@pytest.mark.parametrize("state", [PENDING, WAITING])
def test_a_delivery_in_which_workers_died_twice_is_not_planned_with_others(state: DeliveryState) -> None:
    once, twice = delivery("cdcs", state, deaths=1), delivery("cdcs", state, deaths=2)
    assert planned(record(once)) == {1: [["cdcs"]]}
    assert planned(record(twice)) == {}


@pytest.mark.parametrize("state", [PENDING, WAITING])
def test_what_depends_on_one_that_kills_its_workers_goes_without_it(state: DeliveryState) -> None:
    suspected = delivery("cdcs", state, deaths=2)
    plans = planned(record(suspected, delivery("labarchives"), delivery("elabftw")))
    assert plans == {1: [["labarchives", "elabftw"]]}


def test_what_requires_one_that_kills_its_workers_does_not_go() -> None:
    mirror = delivery("mirror", depends_on=(), requires=("cdcs",))
    assert planned(record(delivery("cdcs", deaths=2), mirror), room={"cdcs": 1, "mirror": 1}) == {}


def test_a_run_of_one_delivery_has_one_stage_and_its_kind() -> None:
    run = single(usual(7), "elabftw", RunKind.PROBE)
    assert (run.record_id, run.kind, in_words(run)) == (7, RunKind.PROBE, [["elabftw"]])


@pytest.mark.parametrize(
    ("next_attempt_at", "paused", "stages"),
    [
        (EARLIER, set(), [["cdcs"]]),  # it is resolved first
        (LATER, set(), []),  # nothing else before it can be resolved
        (EARLIER, {"cdcs"}, []),
    ],
)
def test_first_success_starts_no_other_destination_while_it_is_unknown_what_one_holds(
    next_attempt_at: datetime, paused: set[str], stages: Stages
) -> None:
    unresolved = delivery("cdcs", WAITING, next_attempt_at=next_attempt_at, unresolved=True)
    rows = record(unresolved, delivery("labarchives"), delivery("elabftw"), strategy=Strategy.FIRST_SUCCESS)
    assert planned(rows, paused=paused) == ({1: stages} if stages else {})


def test_first_success_is_not_stuck_behind_a_dependency_that_is_due_again() -> None:
    """CDCS was abandoned, a worker died in eLabFTW, and a rebuild has made CDCS due again."""
    rows = record(delivery("cdcs"), delivery("elabftw", unresolved=True), strategy=Strategy.FIRST_SUCCESS)
    assert planned(rows) == {1: [["elabftw"]]}


def test_first_success_goes_on_after_one_was_given_up_with_an_unknown_outcome() -> None:
    failed = delivery("cdcs", FAILED, unresolved=True)
    assert planned(record(failed, delivery("elabftw"), strategy=Strategy.FIRST_SUCCESS)) == {1: [["elabftw"]]}


@pytest.mark.parametrize("strategy", [Strategy.ALL, Strategy.BEST_EFFORT])
def test_the_others_do_not_wait_until_a_lost_answer_is_resolved(strategy: Strategy) -> None:
    unresolved = delivery("cdcs", WAITING, next_attempt_at=LATER, unresolved=True)
    assert planned(record(unresolved, delivery("elabftw"), strategy=strategy)) == {1: [["elabftw"]]}


def test_first_success_tries_again_what_another_one_requires() -> None:
    """CDCS has failed once and its time has come; what requires it cannot go, and must not be waited for."""
    mirror = delivery("mirror", depends_on=(), requires=("cdcs",))
    rows = record(delivery("cdcs", WAITING), mirror, strategy=Strategy.FIRST_SUCCESS)
    assert planned(rows, room={"cdcs": 1, "mirror": 1}) == {1: [["cdcs"]]}


@pytest.mark.parametrize(
    "top",
    [
        delivery("top", priority=99, depends_on=("last",)),
        delivery("top", priority=99, depends_on=(), requires=("last",)),
    ],
)
def test_first_success_is_not_stuck_behind_one_that_waits_for_a_less_important_one(top: DeliveryRow) -> None:
    rows = record(top, delivery("last", priority=1), strategy=Strategy.FIRST_SUCCESS)
    assert planned(rows, room={"top": 1, "last": 1}) != {}


NAMES = ("a", "b", "c", "d", "e")
GIVEN_ROOM = st.fixed_dictionaries({}, optional={name: st.integers(0, 3) for name in NAMES})
GIVEN_PAUSED = st.sets(st.sampled_from(NAMES), max_size=2)


@st.composite
def some_record(draw: st.DrawFn, record_id: int) -> RecordDeliveries:
    """Any record whose dependencies have no circle, as freeze guarantees: they point to earlier names."""
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


@given(some_records(), GIVEN_ROOM, GIVEN_PAUSED)
def test_no_plan_asks_for_more_room_than_there_is(
    records: list[RecordDeliveries], room: dict[str, int], paused: set[str]
) -> None:
    runs = plan(records, room, paused, NOW)
    for name in NAMES:
        given_out = sum(item.destination == name for run in runs for item in run.deliveries)
        assert given_out <= room.get(name, 0)


@given(some_records(), GIVEN_ROOM, GIVEN_PAUSED)
def test_every_plan_is_one_run_a_record_and_one_delivery_a_destination(
    records: list[RecordDeliveries], room: dict[str, int], paused: set[str]
) -> None:
    runs = plan(records, room, paused, NOW)
    assert len({run.record_id for run in runs}) == len(runs)
    rows = {item.record_id: set(item.deliveries) for item in records}
    for run in runs:
        names = [item.destination for item in run.deliveries]
        assert len(set(names)) == len(names)
        assert run.deliveries
        assert all(run.stages)
        assert set(run.deliveries) <= rows[run.record_id]


@given(some_records(), GIVEN_ROOM, GIVEN_PAUSED)
def test_no_plan_has_a_dependency_beside_or_after_its_dependent(
    records: list[RecordDeliveries], room: dict[str, int], paused: set[str]
) -> None:
    for run in plan(records, room, paused, NOW):
        stage_of = {item.destination: number for number, stage in enumerate(run.stages) for item in stage}
        for item in run.deliveries:
            for name in {*item.depends_on, *item.requires} & stage_of.keys():
                assert stage_of[name] < stage_of[item.destination]


@given(some_records(), GIVEN_ROOM, GIVEN_PAUSED)
def test_no_plan_holds_what_is_paused_or_not_due(
    records: list[RecordDeliveries], room: dict[str, int], paused: set[str]
) -> None:
    for run in plan(records, room, paused, NOW):
        for item in run.deliveries:
            assert item.due(NOW)
            assert item.destination not in paused
            assert not item.suspected


@given(some_records(), GIVEN_ROOM, GIVEN_PAUSED)
def test_no_plan_leaves_a_pending_dependency_behind(
    records: list[RecordDeliveries], room: dict[str, int], paused: set[str]
) -> None:
    everything = {item.record_id: {row.destination: row for row in item.deliveries} for item in records}
    for run in plan(records, room, paused, NOW):
        siblings = everything[run.record_id]
        together = {item.destination for item in run.deliveries}
        for item in run.deliveries:
            assert all(name in together or siblings[name].has_succeeded for name in item.requires)
            behind = {*item.depends_on} & siblings.keys() - together - paused
            first_success = next(each.strategy for each in records if each.record_id == run.record_id)
            if first_success is not Strategy.FIRST_SUCCESS:
                assert not [name for name in behind if siblings[name].state is PENDING and not siblings[name].suspected]


@given(some_records(), GIVEN_ROOM, GIVEN_PAUSED)
def test_first_success_never_has_two_deliveries_on_their_way(
    records: list[RecordDeliveries], room: dict[str, int], paused: set[str]
) -> None:
    one_at_a_time = {item.record_id for item in records if item.strategy is Strategy.FIRST_SUCCESS}
    for run in plan(records, room, paused, NOW):
        assert run.record_id not in one_at_a_time or len(run.deliveries) == 1


@given(some_records(), GIVEN_ROOM, GIVEN_PAUSED)
def test_the_same_rows_give_the_same_plan(
    records: list[RecordDeliveries], room: dict[str, int], paused: set[str]
) -> None:
    room_before = dict(room)
    first = plan(records, room, paused, NOW)
    assert plan(list(records), dict(reversed(room.items())), frozenset(paused), NOW) == first
    assert room == room_before


@given(some_records(), GIVEN_PAUSED)
def test_what_is_due_and_unhindered_is_never_starved(records: list[RecordDeliveries], paused: set[str]) -> None:
    def unhindered(item: DeliveryRow, siblings: Mapping[str, DeliveryRow]) -> bool:
        return (
            item.due(NOW)
            and not item.suspected
            and item.destination not in paused
            and all(name in siblings and siblings[name].has_succeeded for name in item.requires)
            and all(siblings[name].state.final for name in item.depends_on if name in siblings)
        )

    anything = any(
        unhindered(item, {row.destination: row for row in each.deliveries})
        for each in records
        if each.strategy is not Strategy.FIRST_SUCCESS
        for item in each.deliveries
    )
    assert bool(plan(records, dict.fromkeys(NAMES, 1), paused, NOW)) >= anything


@given(some_records())
def test_with_room_for_all_every_unhindered_delivery_goes(records: list[RecordDeliveries]) -> None:
    runs = plan(records, dict.fromkeys(NAMES, 100), (), NOW)
    gone = {item.id for run in runs for item in run.deliveries}
    for each in records:
        if each.strategy is Strategy.FIRST_SUCCESS:
            continue
        for item in each.deliveries:
            if item.due(NOW) and not item.requires and not item.suspected:
                assert item.id in gone or any(
                    row.destination in item.depends_on and row.due(NOW) and row.id not in gone
                    for row in each.deliveries
                )
