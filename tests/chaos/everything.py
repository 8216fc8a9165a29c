"""All of it together, and nothing at all."""

from collections.abc import Callable
from functools import partial

from tests.chaos.broker import flush, kill_broker
from tests.chaos.database import kill_database
from tests.chaos.destinations import mixed_faults
from tests.chaos.records import DESTINATIONS
from tests.chaos.scenario import Havoc, Scenario
from tests.chaos.workers import kill_beat, kill_worker, stop_past_the_lease, stop_with_a_message

EVENTS: tuple[tuple[int, Callable[[Havoc], None]], ...] = (
    (8, kill_worker),
    (1, kill_beat),
    (2, stop_with_a_message),
    (2, stop_past_the_lease),
    (2, flush),
    (2, kill_broker),
    (2, kill_database),
)


def strike_everywhere(havoc: Havoc) -> None:
    """Every way of dying, while one call in five goes wrong."""
    havoc.set_faults({name: mixed_faults(havoc.random) for name in DESTINATIONS})
    happening = [partial(event, havoc) for whole, event in EVENTS for _ in range(havoc.times(whole))]
    havoc.play([(havoc.random.uniform(0, havoc.seconds), event) for event in happening])
    havoc.end_faults()


CALM = Scenario("calm", seconds=10)
EVERYTHING = Scenario(
    "everything", strike_everywhere, seconds=40, builders=2, beats=2, poison=True, workers_may_end=True
)
