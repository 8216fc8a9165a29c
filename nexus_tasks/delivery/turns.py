"""Keeps the calls of all workers to one service apart by its interval; asked before each call of a paced destination.

The moment of the last call stands in the destination's row, so that no failure of the broker lifts the pace. Nobody
waits with a worker in hand: a try that comes too early is given back to Celery, and goes on from its checkpoint in its
next turn. Only a try whose earlier calls would have to be made again (it has read something, or changed it) stays, and
has the floor: until it has written down what it was for, the next call is its own. So one worker at most is waiting.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID, uuid4

from sqlalchemy import Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import destinations
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.exporters.base import ExportDestination
from nexus_tasks.exporters.registry import interval_of

SLACK_S = 0.1  # added to every interval: so long may the bytes of a call take to leave after its turn was taken
SHORT_WAIT_S = 0.2  # is waited for at once: it takes Celery about as long to bring a message again


class NotYourTurnError(Exception):
    """The call must wait for some seconds: nothing was sent, and the try goes on when they are over."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the next call may be made in {seconds:.2f} s")
        self.seconds = seconds


@dataclass
class Turns:
    """The turns of one try; an `interval` of 0 seconds lets every call go."""

    engine: Engine
    destination: str
    interval: float
    longest_call: float  # seconds; one that has the floor and makes no call for so long has died
    stays: bool = False  # a call was made that the checkpoint does not remember
    _taken_at: float | None = field(default=None, init=False)  # a turn in hand, on the monotonic clock
    _has_floor: bool = field(default=False, init=False)
    _token: UUID = field(default_factory=uuid4, init=False)

    @classmethod
    def of(cls, engine: Engine, destination: ExportDestination, settings: Settings, *, stays: bool = False) -> Self:
        """The turns of a try, or of another caller, at this destination."""
        interval = interval_of(destination, settings.NX_INTERVALS)
        return cls(engine, destination.name, interval, settings.NX_CALL_DEADLINE + settings.NX_LEASE_MARGIN, stays)

    def take(self) -> None:
        """Return when the next call may be made; raises `NotYourTurnError` when a later try is to make it."""
        if self.interval <= 0:
            return
        taken_at, self._taken_at = self._taken_at, None
        if not self._is_fresh(taken_at):
            self._wait(floor=True)
        self.stays = True

    def take_ahead(self) -> None:
        """Take the turn of a call that follows at once, before anything is committed for it; raises as `take`."""
        if self.interval > 0 and not self._is_fresh(self._taken_at):
            self._taken_at = self._wait(floor=self.stays)

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """For calls whose outcome is written down when the block has ended: they need not be made again."""
        stayed = self.stays
        yield
        self.stays = stayed
        if not stayed:
            self.leave_floor()

    def leave_floor(self) -> None:
        """Let the others go on; with the try's last call at the latest."""
        if self._has_floor:
            with suppress(DatabaseError), transaction(self.engine) as connection:  # else it ends by itself
                destinations.leave_floor(connection, self.destination, self._token)
            self._has_floor = False

    def _wait(self, *, floor: bool) -> float:
        """When the turn was taken, on the monotonic clock."""
        every = self.interval + SLACK_S
        floor_for = every + self.longest_call if floor else None
        while True:
            taken_at = time.monotonic()
            with transaction(self.engine) as connection:
                seconds = destinations.take_turn(connection, self.destination, every, self._token, floor_for=floor_for)
                if seconds > SHORT_WAIT_S and not self.stays:
                    seconds = max(seconds, destinations.queue_up(connection, self.destination, every))
            if seconds <= 0:
                self._has_floor |= floor
                if self._is_fresh(taken_at):
                    return taken_at
            if seconds > SHORT_WAIT_S and not self.stays:
                raise NotYourTurnError(seconds)
            time.sleep(seconds)

    def _is_fresh(self, taken_at: float | None) -> bool:
        """Whether a turn can still be used, and the next one will not come too early after it."""
        return taken_at is not None and time.monotonic() - taken_at <= SLACK_S
