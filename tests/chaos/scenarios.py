"""Every scenario, in the order in which they run."""

from tests.chaos import broker, database, destinations, doubles, poison, workers
from tests.chaos.everything import CALM, EVERYTHING
from tests.chaos.scenario import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    CALM,
    *workers.SCENARIOS,
    *broker.SCENARIOS,
    *database.SCENARIOS,
    *destinations.SCENARIOS,
    *doubles.SCENARIOS,
    *poison.SCENARIOS,
    EVERYTHING,
)
QUICK = (  # the short version of the run
    "workers-killed",
    "workers-stopped-past-lease",
    "broker-flushed",
    "broker-killed",
    "database-killed",
    "destinations-faulty",
    "poison-record",
)


def named(names: list[str]) -> list[Scenario]:
    """The scenarios of those names; raises `KeyError` with the name that there is none of."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    return [known[name] for name in names]
