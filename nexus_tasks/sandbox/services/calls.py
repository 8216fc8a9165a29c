"""What was asked of a stand-in: counts for benchmarks, and who called at the same time; written by the server."""

import threading
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

REMEMBERED_CALLS = 1000


@dataclass
class Call:
    """One call; times are seconds on the monotonic clock. The query is left out: it can hold credentials."""

    method: str
    path: str
    template: str
    started: float
    ended: float | None = None
    status: int | None = None  # None: nothing was answered
    fault: str | None = None


@dataclass(frozen=True)
class Load:
    """The calls beside and before a call."""

    concurrent: int  # calls in progress, without this one
    seconds_since_last: float  # since the start of the call before; infinite for the first one


class CallLog:
    """Counts calls and connections; safe to use from all threads of a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._by_path: Counter[str] = Counter()
        self._recent: deque[Call] = deque(maxlen=REMEMBERED_CALLS)
        self._in_progress: list[Call] = []
        self._max_concurrent = 0
        self._connections = 0
        self._last_start = float("-inf")

    def reset(self) -> None:
        """Start counting at zero."""
        with self._lock:
            self._forget()

    def count_connection(self) -> None:
        """A connection has carried its first call."""
        with self._lock:
            self._connections += 1

    def begin(self, method: str, path: str, template: str) -> tuple[Call, Load]:
        """A call has come in."""
        with self._lock:
            now = time.monotonic()
            load = Load(len(self._in_progress), now - self._last_start)
            call = Call(method, path, template, started=now)
            self._last_start = now
            self._in_progress.append(call)
            self._recent.append(call)
            self._by_path[f"{method} {template}"] += 1
            self._max_concurrent = max(self._max_concurrent, len(self._in_progress))
            return call, load

    def end(self, call: Call, status: int | None, fault: str | None = None) -> None:
        """A call is about to be answered, or has been given up."""
        with self._lock:
            if call.ended is None:
                call.ended, call.status, call.fault = time.monotonic(), status, fault
            self._in_progress = [other for other in self._in_progress if other is not call]

    def as_json(self) -> dict[str, Any]:
        """The counts, and the last calls in the order in which they came in."""
        with self._lock:
            return {
                "total": self._by_path.total(),
                "by_path": dict(sorted(self._by_path.items())),
                "connections": self._connections,
                "in_progress": len(self._in_progress),
                "max_concurrent": self._max_concurrent,
                "recent": [asdict(call) for call in self._recent],
            }
