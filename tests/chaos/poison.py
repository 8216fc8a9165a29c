"""A record on which its worker dies, every time."""

from tests.chaos.scenario import Havoc, Scenario


def _count_the_record(havoc: Havoc) -> None:
    havoc.faults += 1  # it kills as often as it is tried


# Five deaths, one after the other: each is seen as late as its lease and its run allow.
SOON_DEAD = {"NX_CALL_DEADLINE": "1", "NX_LEASE_MARGIN": "1", "NX_RUN_PATIENCE": "2"}

SCENARIOS = (Scenario("poison-record", _count_the_record, seconds=12, poison=True, settings=SOON_DEAD),)
