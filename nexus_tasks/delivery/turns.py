"""Keeps the calls of all workers to one service apart by its interval; asked before each call of a paced destination.

The moment of the last call stands in the destination's row, so that no failure of the broker lifts the pace. Nobody
waits with a worker in hand: a try that comes too early is given back to Celery, and goes on from its checkpoint in its
next turn. Only a try whose earlier calls would have to be made again (it has read something, or changed it) stays, and
has the floor: until it has written down what it was for, the next call is its own. So one worker at most is waiting.

What is noted is the latest moment at which the call may leave: its `slack` from now. A turn that was not used by then
is lost, and the next one of this process gets more slack: where the database is far away, or a body takes long to make.
"""

import time
from collections.abc import Callable, Iterator
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

SLACK_S = 0.1  # from when a turn is taken until the bytes of its call leave; added to every interval
LONGEST_SLACK_S = 10.0
SLICE_S = 10.0  # of a long wait in hand, after which the lease is looked at
SHORT_WAIT_S = 0.2  # is waited for at once: it takes Celery about as long to bring a message again

_slack: dict[str, float] = {}  # by destination, what this process has found that it needs


class NotYourTurnError(Exception):
    """The call must wait for some seconds: nothing was sent, and the try goes on when they are over."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the next call may be made in {seconds:.2f} s")
        self.seconds = seconds


@dataclass(frozen=True)
class _Turn:
    taken_at: float  # on the monotonic clock, before it was asked for
    slack: float


@dataclass
class Turns:
    """The turns of one try; an `interval` of 0 seconds lets every call go."""

    engine: Engine
    destination: str
    interval: float
    longest_call: float  # seconds; one that has the floor and makes no call for so long has died
    stays: bool = False  # a call was made that the checkpoint does not remember
    still_mine: Callable[[], None] = lambda: None  # called while waiting in hand: raises when the lease is lost
    _ahead: _Turn | None = field(default=None, init=False)  # a turn in hand
    _has_floor: bool = field(default=False, init=False)
    _token: UUID = field(default_factory=uuid4, init=False)

    @classmethod
    def of(
        cls,
        engine: Engine,
        destination: ExportDestination,
        settings: Settings,
        *,
        stays: bool = False,
        still_mine: Callable[[], None] = lambda: None,
    ) -> Self:
        """The turns of a try, or of another caller, at this destination."""
        interval = interval_of(destination, settings.NX_INTERVALS)
        longest_call = settings.NX_CALL_DEADLINE + settings.NX_LEASE_MARGIN
        return cls(engine, destination.name, interval, longest_call, stays, still_mine)

    def take(self) -> None:
        """Return when the next call may be made; raises `NotYourTurnError` when a later try is to make it."""
        if self.interval <= 0:
            return
        ahead, self._ahead = self._ahead, None
        if ahead is None or not self._in_time(ahead):
            self.stays |= ahead is not None  # what a turn was taken ahead for is under way: it is not begun again
            self._wait(floor=True)
        self.stays = True

    def take_ahead(self) -> None:
        """Take the turn of a call that follows at once, before anything is committed for it; raises as `take`."""
        if self.interval > 0:
            self._ahead = self._wait(floor=self.stays)

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """For calls whose outcome is written down when the block has ended: they need not be made again."""
        stayed = self.stays
        try:
            yield
        finally:
            self._ahead = None
        self.stays = stayed
        if not stayed:
            self.leave_floor()

    def leave_floor(self) -> None:
        """Let the others go on; with the try's last call at the latest."""
        if self._has_floor:
            with suppress(DatabaseError), transaction(self.engine) as connection:  # else it ends by itself
                destinations.leave_floor(connection, self.destination, self._token)
            self._has_floor = False

    def _wait(self, *, floor: bool) -> _Turn:
        floor_for = self.interval + self.longest_call if floor else None
        while True:
            slack = _slack.get(self.destination, SLACK_S)
            with transaction(self.engine) as connection:
                turn = _Turn(time.monotonic(), slack)
                seconds = destinations.take_turn(
                    connection, self.destination, self.interval, slack, self._token, floor_for=floor_for
                )
                if seconds > SHORT_WAIT_S and not self.stays:
                    seconds = max(seconds, destinations.queue_up(connection, self.destination, self.interval, slack))
            if seconds <= 0:
                self._has_floor |= floor
                if self._in_time(turn):
                    return turn
            if seconds > SHORT_WAIT_S and not self.stays:
                raise NotYourTurnError(seconds)
            self.still_mine()
            time.sleep(min(seconds, SLICE_S))

    def _in_time(self, turn: _Turn) -> bool:
        """Whether a call leaves while its turn lasts; either way it is seen how much slack this process needs."""
        needed = time.monotonic() - turn.taken_at
        _slack[self.destination] = min(max(SLACK_S, 0.8 * turn.slack, 2 * needed), LONGEST_SLACK_S)
        return needed <= turn.slack
