"""Services that misbehave: one call in five in all three, and one of them away for long."""

from random import Random
from typing import Any

from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from tests.chaos.records import DESTINATIONS
from tests.chaos.scenario import Havoc, Scenario
from tests.chaos.settings import CALL_DEADLINE_S, LOOKUP_GRACE_S

FAULTY_SHARE = 0.2  # of the calls
LATE_S = CALL_DEADLINE_S + LOOKUP_GRACE_S / 2  # after the time-out, within the grace
HANG_S = CALL_DEADLINE_S * 3
AWAY_SHARE = 0.8  # of the scenario: 20 s, which stand for two hours in a lab
ONE_FAULT: tuple[tuple[FaultKind, dict[str, Any]], ...] = (
    (FaultKind.STATUS, {"status": 503}),
    (FaultKind.STATUS, {"status": 429, "retry_after": 1.0}),
    (FaultKind.RESET, {}),
    (FaultKind.RESET_AFTER, {}),
    (FaultKind.STATUS_AFTER, {"status": 504}),
    (FaultKind.HANG, {"seconds": HANG_S}),
    (FaultKind.TRUNCATE, {}),
    (FaultKind.LATE, {"seconds": LATE_S}),
)


def mixed_faults(random: Random, share: float = FAULTY_SHARE) -> list[Fault]:
    """Every kind of fault, in random order, each for the same part of the share.

    A service asks its faults one after the other: a later one gets fewer calls, so its own rate is higher.
    """
    part = share / len(ONE_FAULT)
    kinds = random.sample(ONE_FAULT, len(ONE_FAULT))
    return [Fault(kind, rate=part / (1 - position * part), **values) for position, (kind, values) in enumerate(kinds)]


def answer_badly(havoc: Havoc) -> None:
    """One call in five goes wrong, everywhere, as long as records come in."""
    havoc.set_faults({name: mixed_faults(havoc.random) for name in DESTINATIONS})
    havoc.wait_for(havoc.seconds)
    havoc.wait_for_builders()
    havoc.end_faults()


def take_cdcs_away(havoc: Havoc) -> None:
    """CDCS is away: refuses at first, then says nothing, then a proxy answers for it. The notebooks work."""
    away = havoc.seconds * AWAY_SHARE
    begin = havoc.random.uniform(0, havoc.seconds - away)
    ways = (Fault(FaultKind.RESET), Fault(FaultKind.HANG, seconds=HANG_S), Fault(FaultKind.STATUS, status=503))
    for position, way in enumerate(ways):
        havoc.wait_for(begin + position * away / len(ways))
        havoc.set_faults({"cdcs": [way]})
    havoc.wait_for(begin + away)
    havoc.end_faults()


SCENARIOS = (Scenario("destinations-faulty", answer_badly), Scenario("cdcs-away", take_cdcs_away))
