"""The stub's process, its addresses, and the settings with which programs find it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.ports import free_port
from tests.benchmarks.stub import HOST, Counters

NAMES = ("cdcs", "elabftw", "labarchives")
NOTEBOOK = "NDEuNnwyNy8zMi9CZW5jaHw0MS42"
ROOT = Path(__file__).parents[2]
ASK_S = 10  # seconds until the stub must answer the harness


@dataclass(frozen=True)
class Seen:
    """What the three services have seen, by name."""

    services: Mapping[str, Counters]

    def __sub__(self, earlier: "Seen") -> "Seen":
        return Seen(
            {
                name: Counters(
                    now.calls - earlier.services[name].calls,
                    now.connections - earlier.services[name].connections,
                    now.bytes_in - earlier.services[name].bytes_in,
                    now.bytes_out - earlier.services[name].bytes_out,
                )
                for name, now in self.services.items()
            }
        )

    @property
    def calls(self) -> int:
        """Of all services."""
        return sum(each.calls for each in self.services.values())

    @property
    def connections(self) -> int:
        """Opened to all services."""
        return sum(each.connections for each in self.services.values())

    @property
    def kilobytes(self) -> float:
        """To and from all services."""
        return sum(each.bytes_in + each.bytes_out for each in self.services.values()) / 1000


class Services:
    """The three services; a context manager."""

    def __init__(self, folder: Path) -> None:
        *ports, control = [free_port() for _ in range(4)]
        self.urls = {name: f"http://{HOST}:{port}" for name, port in zip(NAMES, ports, strict=True)}
        self._control = f"http://{HOST}:{control}"
        self._session = requests.Session()
        self._session.trust_env = False
        self._process = ManagedProcess(
            "stub",
            [sys.executable, "-m", "tests.benchmarks.stub", *map(str, [*ports, control])],
            folder / "stub",
            cwd=ROOT,
            ready=lambda: "ready" in self._process.logs_since_start(),
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.close()
        self._process.stop()

    def settings(self) -> dict[str, str]:
        """The `NX_*` settings, which the peer calls by the same names."""
        return {
            "NX_CDCS_URL": self.urls["cdcs"],
            "NX_CDCS_TOKEN": "benchmark",
            "NX_ELABFTW_URL": self.urls["elabftw"],
            "NX_ELABFTW_API_KEY": "1-benchmark",
            "NX_LABARCHIVES_URL": f"{self.urls['labarchives']}/api",
            "NX_LABARCHIVES_ACCESS_KEY_ID": "benchmark",
            "NX_LABARCHIVES_ACCESS_PASSWORD": "benchmark",
            "NX_LABARCHIVES_USER_ID": "benchmark",
            "NX_LABARCHIVES_NOTEBOOK_ID": NOTEBOOK,
        }

    def set_latency(self, milliseconds: float) -> None:
        """From now on each call is answered after so long."""
        self._ask(f"latency/{milliseconds / 1000}")

    def seen(self) -> Seen:
        """Since the start."""
        return Seen({name: Counters(**counters) for name, counters in self._ask("counters").items()})

    def _ask(self, path: str) -> dict[str, Any]:
        answer = self._session.get(f"{self._control}/{path}", timeout=ASK_S)
        answer.raise_for_status()
        return dict(answer.json())
