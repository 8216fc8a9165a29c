"""Remembers for some minutes what a service was asked before; used by the destinations for ids that seldom change."""

import time
from collections.abc import Callable, Hashable

LIFE = 600.0  # seconds


class ShortMemory:
    """Values by key, each for `life` seconds; kept in a destination, so one per process and forgotten with it."""

    def __init__(self, life: float = LIFE, clock: Callable[[], float] = time.monotonic) -> None:
        self._life = life
        self._clock = clock
        self._values: dict[Hashable, tuple[str, float]] = {}

    def get(self, key: Hashable) -> str | None:
        """What is remembered under `key`, or None."""
        value, until = self._values.get(key, ("", 0.0))
        return value if self._clock() < until else None

    def put(self, key: Hashable, value: str) -> str:
        """Remember `value` under `key`, and return it."""
        self._values[key] = (value, self._clock() + self._life)
        return value

    def forget(self) -> None:
        """Forget everything."""
        self._values.clear()
