from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.delivery.strategy import Verdict, verdict
from nexus_tasks.states import DeliveryState, Strategy

PENDING, RETRYING = DeliveryState.PENDING, DeliveryState.RETRYING
SUCCEEDED, FAILED, SKIPPED = DeliveryState.SUCCEEDED, DeliveryState.FAILED, DeliveryState.SKIPPED


def delivery(
    number: int, state: DeliveryState, *, requires: tuple[str, ...] = (), succeeded_once: bool = False
) -> DeliveryRow:
    """The delivery to destination `d<number>`, which has the id `number`."""
    return DeliveryRow(
        id=number,
        record_id=1,
        destination=f"d{number}",
        priority=100 - number,
        depends_on=(),
        requires=requires,
        state=state,
        succeeded_at=datetime(2025, 1, 27, tzinfo=UTC) if succeeded_once or state is SUCCEEDED else None,
    )


def judged(strategy: Strategy, *deliveries: DeliveryRow) -> Verdict:
    return verdict(RecordDeliveries(1, strategy, deliveries))


def satisfied(strategy: Strategy, *states: DeliveryState) -> bool:
    return judged(strategy, *(delivery(number, state) for number, state in enumerate(states))).satisfied


@pytest.mark.parametrize("strategy", Strategy)
def test_a_record_without_deliveries_is_never_satisfied(strategy: Strategy) -> None:
    assert judged(strategy) == Verdict(satisfied=False)


@pytest.mark.parametrize(
    ("states", "all_", "first_success", "best_effort"),
    [
        ([PENDING], False, False, False),
        ([SUCCEEDED], True, True, True),
        ([FAILED], False, False, False),
        ([SUCCEEDED, SUCCEEDED], True, True, True),
        ([SUCCEEDED, PENDING], False, True, True),
        ([SUCCEEDED, RETRYING], False, True, True),
        ([SUCCEEDED, FAILED], False, True, True),
        ([SUCCEEDED, SKIPPED], False, True, True),
        ([FAILED, RETRYING], False, False, False),
        ([FAILED, FAILED], False, False, False),
        ([SKIPPED, SKIPPED], False, False, False),
    ],
)
def test_each_strategy_has_its_own_idea_of_enough(
    states: list[DeliveryState], *, all_: bool, first_success: bool, best_effort: bool
) -> None:
    assert satisfied(Strategy.ALL, *states) is all_
    assert satisfied(Strategy.FIRST_SUCCESS, *states) is first_success
    assert satisfied(Strategy.BEST_EFFORT, *states) is best_effort


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("state", DeliveryState)
def test_a_delivery_that_succeeded_once_has_succeeded(strategy: Strategy, state: DeliveryState) -> None:
    assert judged(strategy, delivery(1, state, succeeded_once=True)).satisfied


@pytest.mark.parametrize("strategy", [Strategy.ALL, Strategy.BEST_EFFORT])
def test_the_others_go_on_after_a_success(strategy: Strategy) -> None:
    assert judged(strategy, delivery(1, SUCCEEDED), delivery(2, PENDING), delivery(3, RETRYING)).skip == {}


def test_first_success_skips_the_rest_with_the_reason() -> None:
    judgement = judged(
        Strategy.FIRST_SUCCESS, delivery(1, FAILED), delivery(2, SUCCEEDED), delivery(3, PENDING), delivery(4, RETRYING)
    )
    assert judgement.satisfied
    assert judgement.skip == dict.fromkeys((3, 4), "d2 holds the record already")


@pytest.mark.parametrize("state", [PENDING, RETRYING])
def test_first_success_does_not_skip_the_holder_that_is_to_be_brought_up_to_date(state: DeliveryState) -> None:
    """Its record was rebuilt, or an operator asked for it to be made again."""
    judgement = judged(Strategy.FIRST_SUCCESS, delivery(1, state, succeeded_once=True), delivery(2, PENDING))
    assert judgement == Verdict(satisfied=True, skip={2: "d1 holds the record already"})


def test_first_success_skips_nothing_before_there_is_one() -> None:
    assert judged(Strategy.FIRST_SUCCESS, delivery(1, FAILED), delivery(2, PENDING)).skip == {}


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("gone", [FAILED, SKIPPED])
def test_what_requires_a_failed_destination_is_skipped_with_the_reason(strategy: Strategy, gone: DeliveryState) -> None:
    judgement = judged(strategy, delivery(1, gone), delivery(2, PENDING, requires=("d1",)))
    assert judgement == Verdict(satisfied=False, skip={2: "it requires d1, which does not hold the record"})


@pytest.mark.parametrize("state", [PENDING, RETRYING, SUCCEEDED])
def test_what_requires_a_destination_that_may_still_come_is_kept(state: DeliveryState) -> None:
    assert judged(Strategy.ALL, delivery(1, state), delivery(2, PENDING, requires=("d1",))).skip == {}


def test_what_requires_a_destination_that_held_the_record_once_is_kept() -> None:
    gone = delivery(1, FAILED, succeeded_once=True)
    assert judged(Strategy.ALL, gone, delivery(2, PENDING, requires=("d1",))).skip == {}


def test_what_requires_an_unknown_destination_is_skipped() -> None:
    judgement = judged(Strategy.ALL, delivery(1, PENDING, requires=("carrier_pigeon",)))
    assert judgement.skip == {1: "it requires carrier_pigeon, which does not hold the record"}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
def test_a_chain_of_requirements_is_skipped_to_its_end(order: tuple[int, ...]) -> None:
    rows = {
        1: delivery(1, FAILED),
        2: delivery(2, PENDING, requires=("d1",)),
        3: delivery(3, RETRYING, requires=("d2",)),
    }
    judgement = judged(Strategy.ALL, *(rows[number] for number in order))
    assert judgement.skip == {
        2: "it requires d1, which does not hold the record",
        3: "it requires d2, which does not hold the record",
    }


@given(st.lists(st.sampled_from(DeliveryState), max_size=5), st.sampled_from(Strategy))
def test_only_what_is_not_settled_is_skipped(states: list[DeliveryState], strategy: Strategy) -> None:
    rows = [
        delivery(number, state, requires=(f"d{number - 1}",) if number % 2 else ())
        for number, state in enumerate(states)
    ]
    judgement = judged(strategy, *rows)
    assert not [row for row in rows if row.id in judgement.skip and row.state.final]
