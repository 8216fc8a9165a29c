"""Two of what there should be one of: builders and beats."""

from tests.chaos.scenario import Havoc, Scenario


def _count_the_second_ones(havoc: Havoc) -> None:
    havoc.faults += 2  # a second builder and a second beat, all the time: nothing to recover from


SCENARIOS = (Scenario("two-builders-two-beats", _count_the_second_ones, seconds=12, builders=2, beats=2),)
