"""Keeps the calls of all workers to one service apart by its interval; asked before each call of a paced destination.

The moment of the last call stands in the destination's row, so that no failure of the broker lifts the pace. Nobody
waits with a worker in hand: a try that comes too early is given back to Celery, and goes on from its checkpoint in its
next turn. Only a try whose earlier calls would have to be made again (it has read something, or changed it) stays.
"""

import time
from dataclasses import dataclass, field

from sqlalchemy import Engine

from nexus_tasks.db import destinations
from nexus_tasks.db.engine import transaction

SLACK_S = 0.1  # added to every interval: so long may the bytes of a call take to leave after its turn was taken


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
    stays: bool = field(default=False)  # a call was made that the checkpoint does not remember

    def take(self) -> None:
        """Return when the next call may be made; raises `NotYourTurnError` when a later try is to make it."""
        if self.interval <= 0:
            return
        while (seconds := self._seconds_left()) > 0:
            if not self.stays:
                raise NotYourTurnError(seconds)
            time.sleep(seconds)
        self.stays = True

    def _seconds_left(self) -> float:
        asked_at = time.monotonic()
        with transaction(self.engine) as connection:
            left = destinations.take_turn(connection, self.destination, self.interval + SLACK_S)
        if left <= 0 and time.monotonic() - asked_at > SLACK_S:
            return self.interval  # the database was slow: this turn is over before it could be used
        return left
