"""A record on which its worker dies, every time."""

from tests.chaos.scenario import Havoc, Scenario


def _count_the_record(havoc: Havoc) -> None:
    havoc.faults += 1  # it kills as often as it is tried


SCENARIOS = (Scenario("poison-record", _count_the_record, seconds=12, poison=True),)
