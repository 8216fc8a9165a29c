"""How long something takes, on a machine that does other things as well: those only add to it."""

import time
from collections.abc import Callable


def fastest(call: Callable[[], object], *, enough: float, tries: int = 3) -> float:
    """Seconds of the fastest call; it is called again only while none has taken less than `enough` seconds."""
    best = float("inf")
    for _ in range(tries):
        begun = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begun)
        if best < enough:
            break
    return best
