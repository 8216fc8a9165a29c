"""Waiting for a condition with a deadline; used by `managed_process`, `process_record` and the tests."""

import time
from collections.abc import Callable

from nexus_tasks.sandbox.process_error import ProcessError

POLL_INTERVAL = 0.02  # seconds between two looks at a condition


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until `condition` holds; raises `ProcessError` naming `what` when the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise ProcessError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(POLL_INTERVAL)
