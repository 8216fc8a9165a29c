"""The rate limit of a destination: the least time from call to call, over all workers.

A destination with an interval has one attempt in flight. Who calls it, that attempt or a check by an operator, holds a
token in its row, sleeps between its calls, and leaves the moment of its last call behind. A holder that dies keeps the
token until it expires, which is longer than any interval.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Self
from uuid import UUID, uuid4

from sqlalchemy import Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import destinations
from nexus_tasks.exporters.base import ExportDestination
from nexus_tasks.exporters.registry import interval_of, window_of

BUSY_RETRY_S = 5.0  # until an attempt that has given its worker back goes on
POLL_S = 0.5  # of a check that waits for the token
SLICE_S = 10.0  # of a long sleep, after which the lease is looked at
MOST_SLEEP_S = 600.0  # of one try, well below a task's time limit; the next try goes on from its checkpoint
MARGIN_S = 0.1  # added to every interval: from here to the service, a call does not always take the same time


class RateLimitedError(Exception):
    """The attempt gives the worker back for some seconds, and goes on then."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; next try in {BUSY_RETRY_S:.0f} s")
        self.seconds = BUSY_RETRY_S


class RateLimit:
    """The right to call one destination. Without an interval every call may leave at once, and nothing is written."""

    def __init__(self, engine: Engine, destination: str, interval: float, lasting: float, token: UUID) -> None:
        self._engine = engine
        self._destination = destination
        self._interval = interval + MARGIN_S if interval > 0 else 0  # seconds
        self._lasting = timedelta(seconds=lasting)
        self._token = token
        self._held = False
        self._slept = 0.0  # seconds, in this try
        self._next_call_at = 0.0  # these two on the monotonic clock
        self._last_call_at: float | None = None

    @classmethod
    def of(cls, engine: Engine, destination: ExportDestination, settings: Settings, token: UUID | None = None) -> Self:
        """Of a destination; the holder is known by `token`, such as that of its lease."""
        interval = interval_of(destination, settings.NX_INTERVALS)
        # a sleep, the call, and the interval after it: the moment of a dead holder's last call is not known
        lasting = 2 * (interval + MARGIN_S) + settings.NX_CALL_DEADLINE + settings.NX_LEASE_MARGIN
        return cls(engine, destination.name, interval, lasting, token or uuid4())

    def wait(self, still_mine: Callable[[], None] = lambda: None) -> None:
        """Return when the next call may leave; `leaves` is to follow as it does.

        Raises `RateLimitedError`, and what `still_mine` raises while it sleeps.
        """
        if self._interval <= 0:
            return
        self._take()
        if self._slept > MOST_SLEEP_S and self._next_call_at > time.monotonic():  # not of a call that is ready to leave
            raise RateLimitedError(f"the rate limit has held this try up for {self._slept:.0f} s")
        while (seconds := self._next_call_at - time.monotonic()) > 0:
            time.sleep(min(seconds, SLICE_S))
            self._slept += min(seconds, SLICE_S)
            still_mine()

    def leaves(self) -> None:
        """Note that a call leaves now: the interval until the next one begins."""
        self._last_call_at = time.monotonic()
        self._next_call_at = self._last_call_at + self._interval

    def wait_patiently(self) -> None:
        """As `wait` and `leaves`, also for whoever else holds the token."""
        while True:
            try:
                self.wait()
            except RateLimitedError:
                self._slept = 0
                time.sleep(POLL_S)
            else:
                self.leaves()
                return

    def release(self) -> None:
        """Let others call the destination."""
        if self._held:
            ago = None if self._last_call_at is None else timedelta(seconds=time.monotonic() - self._last_call_at)
            destinations.release_rate_limit_token(self._engine, self._destination, self._token, ago)
            self._held = False

    def _take(self) -> None:
        """Take the token, or have it last longer."""
        taken = destinations.take_rate_limit_token(self._engine, self._destination, self._token, self._lasting)
        if taken is None:
            with_row = destinations.is_known(self._engine, self._destination)
            if with_row:
                raise RateLimitedError("another caller holds the rate limit")
            return  # no record was ever sent to it
        if taken.last_call_at is not None:
            since = (taken.now - taken.last_call_at).total_seconds()
            self._next_call_at = max(self._next_call_at, time.monotonic() + self._interval - since)
        self._held = True


def max_in_flight(destination: ExportDestination, settings: Settings) -> int:
    """How many attempts a destination may have in flight, over all workers: one where it has a rate limit."""
    if interval_of(destination, settings.NX_INTERVALS) > 0:
        return 1
    return window_of(destination, settings.NX_WINDOWS)
