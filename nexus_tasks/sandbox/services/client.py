"""Ask a running stand-in what it holds and make it misbehave; for tests, the demo and `nexus-tasks sandbox fault`."""

from collections.abc import Iterable, Mapping
from typing import Any

import requests

from nexus_tasks.sandbox.services.admin import PREFIX
from nexus_tasks.sandbox.services.faults import Fault

TIMEOUT = 10  # seconds


def set_faults(url: str, faults: Iterable[Fault | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Replace the faults of the stand-in at `url`; raises ValueError when it cannot read them."""
    values = [fault.as_json() if isinstance(fault, Fault) else dict(fault) for fault in faults]
    response = requests.post(f"{url}{PREFIX}faults", json=values, timeout=TIMEOUT)
    if response.status_code == 400:
        raise ValueError(response.json()["message"])
    response.raise_for_status()
    return list(response.json())


def faults(url: str) -> list[dict[str, Any]]:
    """The faults in force, each with the number of calls it was `applied` to."""
    return list(_get(url, "faults"))


def objects(url: str, *, content: bool = False) -> list[dict[str, Any]]:
    """All that the stand-in holds; `content` adds the long texts."""
    return list(_get(url, "objects?content=true" if content else "objects"))


def calls(url: str) -> dict[str, Any]:
    """What was asked of the stand-in since its start or its last reset."""
    return dict(_get(url, "calls"))


def reset(url: str) -> None:
    """Make the stand-in forget objects, calls and faults."""
    requests.post(f"{url}{PREFIX}reset", timeout=TIMEOUT).raise_for_status()


def _get(url: str, what: str) -> Any:
    response = requests.get(f"{url}{PREFIX}{what}", timeout=TIMEOUT)
    response.raise_for_status()
    return response.json()
