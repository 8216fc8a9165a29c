"""Everything that an installation needs, embedded: PostgreSQL, Valkey and the stand-ins for the three services.

With the Python of a CDCS environment (`real_cdcs.environment`), CDCS is the real one.

`nexus-tasks sandbox` leaves it running in a folder, `nexus-tasks demo` and the acceptance tests build on it. Never a
production default: no TLS, no passwords, loopback only.
"""

import json
import shutil
import sys
from pathlib import Path

from nexus_tasks.config import Settings
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.ports import free_port
from nexus_tasks.sandbox.postgres import EmbeddedPostgres
from nexus_tasks.sandbox.process_error import ProcessError
from nexus_tasks.sandbox.process_record import stop_stale
from nexus_tasks.sandbox.real_cdcs.server import RealCdcs
from nexus_tasks.sandbox.valkey import EmbeddedValkey

MARKER = ".nexus-tasks-sandbox"  # in every folder that we made, and may therefore empty
ENVIRONMENT_FILE = "env"
CDCS_FOLDER = "cdcs"  # of the real one


class Sandbox:
    """The embedded services in one folder."""

    def __init__(self, folder: Path, cdcs_python: Path | None = None) -> None:
        self.folder = folder.absolute()
        self.postgres = EmbeddedPostgres(self.folder / "postgres")
        self.valkey = EmbeddedValkey(self.folder / "valkey")
        self.cdcs = None if cdcs_python is None else RealCdcs(self.folder / CDCS_FOLDER, cdcs_python)
        self._ports = [free_port() for _ in range(3)]
        self.services = ManagedProcess(
            "services",
            [sys.executable, "-m", "nexus_tasks.sandbox.services", "--ports", *map(str, self._ports)],
            self.folder / "services",
            ready=self._services_ready,
        )

    @classmethod
    def fresh(cls, folder: Path, cdcs_python: Path | None = None) -> "Sandbox":
        """A sandbox in an empty folder: what an earlier one left there is stopped and removed.

        Raises `ProcessError` when the folder holds something that no sandbox made.
        """
        if folder.exists():
            if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARKER).is_file()):
                raise ProcessError(f"{folder} holds something else: name a new or empty folder with --dir.")
            stop_stale(folder)
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARKER).touch()
        return cls(folder, cdcs_python)

    def start(self) -> None:
        """Start the services and write `env`: the `NX_*` settings that lead to them, as KEY=VALUE lines."""
        self.postgres.start()
        self.valkey.start()
        self.services.start()
        if self.cdcs is not None:
            self.cdcs.start()
        lines = (f"{key}={value}\n" for key, value in self.environment().items())
        (self.folder / ENVIRONMENT_FILE).write_text("".join(lines), encoding="utf-8")

    def stop(self) -> None:
        """Stop the services; what they stored stays."""
        if self.cdcs is not None:
            self.cdcs.stop()
        for part in (self.services, self.valkey, self.postgres):
            part.stop()

    def environment(self) -> dict[str, str]:
        """The `NX_*` settings that lead to the running services, and put files into the folder.

        Every other one is there too, and empty: what a lab has set, in the environment or in `.env`, does not count in
        here, so that nothing made up reaches its archive or its services.
        """
        return {
            **dict.fromkeys(Settings.model_fields, ""),
            "NX_DATABASE_URL": self.postgres.url,
            "NX_BROKER_URL": self.valkey.url,
            "NX_DATA_PATH": str(self.folder / "data"),
            "NX_RECORDS_PATH": str(self.folder / "records"),
            "NX_LOG_PATH": str(self.folder / "logs"),
            "NX_INSTRUMENT_DATA_PATH": str(self.folder / "instruments"),
            **self._service_settings(),
            **({} if self.cdcs is None else self.cdcs.environment()),
        }

    def _services_ready(self) -> bool:
        return bool(self._service_settings())

    def _service_settings(self) -> dict[str, str]:
        """What the stand-ins printed when they were ready."""
        for line in reversed(self.services.logs_since_start().splitlines()):
            if line.startswith("{"):
                return dict(json.loads(line))
        return {}


def service_urls(folder: Path) -> dict[str, str]:
    """Destination → address of its stand-in, from the `env` of a running sandbox; raises `ProcessError`.

    A real CDCS is no stand-in.
    """
    file = folder / ENVIRONMENT_FILE
    if not file.is_file():
        raise ProcessError(f"There is no sandbox in {folder}: start one with `nexus-tasks sandbox up --dir {folder}`.")
    values = dict(line.split("=", 1) for line in file.read_text(encoding="utf-8").splitlines())
    names = ["elabftw", "labarchives"] if (folder / CDCS_FOLDER).exists() else ["cdcs", "elabftw", "labarchives"]
    return {name: values[f"NX_{name.upper()}_URL"] for name in names}
