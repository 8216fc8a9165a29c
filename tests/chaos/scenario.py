"""What a scenario is, and the hands with which it hurts an installation.

The scenarios are in files named after what they hurt.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from nexus_tasks.sandbox.services import client
from nexus_tasks.sandbox.services.faults import Fault
from nexus_tasks.sandbox.waiting import wait_until
from tests.chaos.installation import Installation
from tests.chaos.supervisor import Supervised

WORKING_DEADLINE_S = 60.0  # until a killed worker works again
BUILDER_DEADLINE_S = 120.0  # beyond the time that it was given
LEAST_TIMES = 2  # in a short version
WORKS_FOR_S = (0.2, 2.5)  # the least that a worker works before it is hurt


@dataclass
class Havoc:
    """Hurts one installation at random moments, and keeps account of it.

    `seconds` is for how long; `share` makes a short version of a scenario (1: the whole).
    """

    installation: Installation
    random: Random
    seconds: float
    share: float = 1.0
    faults: int = 0
    last_fault: float | None = None  # seconds since the epoch
    late_until: float = 0.0  # on the monotonic clock: until then an object can still appear
    _begin: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Now: moments are counted from here."""
        self._begin = time.monotonic()

    def times(self, whole: int) -> int:
        """How often to do what the whole scenario does so many times; a single blow could hit nothing."""
        return min(whole, max(LEAST_TIMES, round(whole * self.share)))

    def moments(self, count: int) -> list[float]:
        """So many random moments, in order."""
        return sorted(self.random.uniform(0, self.seconds) for _ in range(count))

    def play(self, events: Sequence[tuple[float, Callable[[], None]]]) -> None:
        """Let each event happen at its moment, one after the other; one that takes long delays the next."""
        for moment, event in sorted(events, key=lambda pair: pair[0]):
            self.wait_for(moment)
            event()

    def repeat(self, whole: int, event: Callable[[], None]) -> None:
        """Let one event happen so many times, at random moments."""
        self.play([(moment, event) for moment in self.moments(self.times(whole))])

    def wait_for(self, moment: float) -> None:
        """Until so many seconds after the beginning."""
        time.sleep(max(0.0, self._begin + moment - time.monotonic()))

    def wait_for_builders(self) -> None:
        """Until every record was handed over; raises `ProcessError` when that takes far too long."""
        builders = self.installation.builders
        wait_until(lambda: not any(each.is_running() for each in builders), BUILDER_DEADLINE_S, "the builders to end")

    def pause(self, least: float, most: float) -> None:
        """A random time."""
        time.sleep(self.random.uniform(least, most))

    def worker(self) -> Supervised:
        """A worker that has worked for a random while: one that is killed as soon as it starts shows nothing."""
        least = self.random.uniform(*WORKS_FOR_S)
        candidates = self.random.sample(self.installation.workers, len(self.installation.workers))

        def ready() -> Supervised | None:
            return next((each for each in candidates if each.worked_for() >= least), None)

        wait_until(lambda: ready() is not None, WORKING_DEADLINE_S, "a worker to work")
        return ready() or candidates[0]

    def count(self, faults: int = 1) -> None:
        """Something was hurt just now."""
        self.faults += faults
        self.last_fault = time.time()

    def set_faults(self, faults: Mapping[str, Sequence[Fault]]) -> None:
        """Have the services of these names misbehave, and stop what they did before."""
        for name, those in faults.items():
            self._clear(name)
            client.set_faults(self.installation.urls[name], those)

    def end_faults(self) -> None:
        """Let every service behave again."""
        for name in self.installation.urls:
            self._clear(name)

    def _clear(self, name: str) -> None:
        url = self.installation.urls[name]
        known: list[dict[str, Any]] = client.faults(url)
        client.set_faults(url, [])
        applied = sum(int(fault["applied"]) for fault in known)
        if applied:
            self.count(applied)
        for fault in known:
            if fault["kind"] == "late" and fault["applied"]:
                self.late_until = max(self.late_until, time.monotonic() + float(fault["seconds"]))


def nothing(havoc: Havoc) -> None:
    """No fault."""


@dataclass(frozen=True)
class Scenario:
    """One way to be hurt. `seconds` is for how long records come in and faults happen."""

    name: str
    strike: Callable[[Havoc], None] = nothing
    seconds: float = 25.0
    builders: int = 1
    beats: int = 1
    poison: bool = False  # with the plugin of the harness, which kills its worker on one record
    settings: Mapping[str, str] = field(default_factory=dict)  # beside, or instead of, the short ones
    workers_may_end: bool = False  # by themselves: Celery's do now and then when their broker dies
