"""Looks at the rows while a scenario goes on: when each session was completed, and when nothing happens any more."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg

LOOK_EVERY_S = 0.2
CONNECT_TIMEOUT_S = 2
QUIET_S = 1.5  # nothing is open or due for so long: it is settled
STALLED_S = 25.0  # no row has changed for so long, far above every time-out of a scenario: it will not be settled
_COMPLETED = "SELECT DISTINCT session_identifier FROM session_log WHERE record_status = 'COMPLETED'"
_STANDING = """
SELECT (SELECT count(*) FROM record),
       (SELECT count(*) FROM delivery WHERE state IN ('pending', 'retrying')),
       (SELECT count(*) FROM run WHERE state = 'open'),
       (SELECT count(*) FROM attempt WHERE state IN ('planned', 'started', 'orphaned')),
       (SELECT count(*) FROM run),
       (SELECT count(*) FROM session_log WHERE record_status = 'COMPLETED')
"""


@dataclass(frozen=True)
class Standing:
    """Where the records stand, in numbers."""

    records: int
    unfinished: int  # deliveries
    open_runs: int
    open_attempts: int
    runs: int
    completed: int  # rows of session_log

    def settled(self, records: int) -> bool:
        """Whether all so many records are there, and nothing is left to do."""
        return self.records == records and not (self.unfinished or self.open_runs or self.open_attempts)


class Watch:
    """A thread that looks at the rows every now and then, also past restarts of the database."""

    def __init__(self, url: str) -> None:
        self.completed_at: dict[str, float] = {}  # seconds since the epoch, as seen from here
        self.standing: Standing | None = None
        self.changed_at = time.monotonic()
        self._url = url
        self._looked = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def has_records(self) -> bool:
        """Whether a record was handed over."""
        return self.standing is not None and self.standing.records > 0

    def wait_settled(self, records: int, seconds: float, on_look: Callable[[Standing], None]) -> bool:
        """Wait until everything is settled and quiet; False when the time is up, or nothing has changed for long."""
        end = time.monotonic() + seconds
        self.changed_at = time.monotonic()
        settled_since: float | None = None
        while time.monotonic() < end and time.monotonic() - self.changed_at < STALLED_S:
            with self._looked:
                self._looked.wait(LOOK_EVERY_S * 5)
            standing = self.standing
            if standing is None or not standing.settled(records):
                settled_since = None
            elif settled_since is None:
                settled_since = time.monotonic()
            elif time.monotonic() - settled_since > QUIET_S:
                return True
            if standing is not None:
                on_look(standing)
        return False

    def _run(self) -> None:
        while not self._ended.is_set():
            with (
                suppress(psycopg.Error),
                psycopg.connect(self._url, connect_timeout=CONNECT_TIMEOUT_S, autocommit=True) as connection,
            ):
                while not self._ended.wait(LOOK_EVERY_S):
                    self._look(connection)
            self._ended.wait(LOOK_EVERY_S)

    def _look(self, connection: psycopg.Connection) -> None:
        now = time.time()
        for (session,) in connection.execute(_COMPLETED):
            self.completed_at.setdefault(session, now)
        row = connection.execute(_STANDING).fetchone()
        standing = Standing(*row) if row else None
        with self._looked:
            if standing != self.standing:
                self.changed_at = time.monotonic()
            self.standing = standing
            self._looked.notify_all()


def recovery(completed_at: dict[str, float], last_fault: float | None) -> tuple[float, float]:
    """Median and 99th percentile of the seconds from the last fault to the completion of what it found incomplete."""
    if last_fault is None:
        return 0.0, 0.0
    waits = sorted(moment - last_fault for moment in completed_at.values() if moment > last_fault)
    if not waits:
        return 0.0, 0.0
    return waits[(len(waits) - 1) // 2], waits[-(-len(waits) * 99 // 100) - 1]
