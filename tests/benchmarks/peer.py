"""The peer, NexusLIMS, as a contender: in an environment of its own, exporting records that are built already."""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from nexus_tasks.sandbox.package_environment import PackageEnvironment, find_uv
from tests.benchmarks.contender import NotExportedError, Run
from tests.benchmarks.figures import PEER
from tests.benchmarks.record import INSTRUMENT, USER, Record, write_files, write_previews
from tests.benchmarks.services import Services
from tests.benchmarks.usage import Processor

REQUIREMENTS = Path(__file__).parents[1] / "live" / "nexuslims.lock"
PROGRAM = Path(__file__).with_name("peer_program.py")
INIT_S = 120
_INIT = "from nexusLIMS.cli.main import main; main(['db', 'init'])"


def peer_python() -> Path:
    """Its interpreter; the packages are installed at the first call. Raises `PackagesNotAvailableError`."""
    environment = PackageEnvironment("NexusLIMS", "nexuslims", REQUIREMENTS, "nexuslims")
    return environment.ensure(environment.default_folder(), find_uv())


class Peer:
    """One process of it, which exports one batch after the other; a context manager.

    It waits a second between its calls to LabArchives, as the terms ask, unless `pause` is switched off.
    """

    name = PEER

    def __init__(self, folder: Path, services: Services) -> None:
        self._folder = folder
        self._services = services
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        python = peer_python()
        for name in ("instruments", "data", "records", "logs"):
            (self._folder / name).mkdir(parents=True)
        write_files(self._folder / "instruments")
        write_previews(self._folder / "previews")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NX_")},
            "NX_INSTRUMENT_DATA_PATH": str(self._folder / "instruments"),
            "NX_DATA_PATH": str(self._folder / "data"),
            "NX_RECORDS_PATH": str(self._folder / "records"),
            "NX_LOG_PATH": str(self._folder / "logs"),
            "NX_DB_PATH": str(self._folder / "nexuslims.db"),
            **self._services.settings(),
            "NO_PROXY": "127.0.0.1",
        }
        with (self._folder / "peer.log").open("wb") as log:
            subprocess.run(
                [python, "-c", _INIT],
                env=environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                timeout=INIT_S,
                check=True,
            )
            self._process = subprocess.Popen(
                [python, PROGRAM],
                env=environment,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.communicate()

    def export(self, records: list[Record], *, pause: bool = False) -> Run:
        """See `Contender`."""
        handed = [self._hand_over(record) for record in records]
        said = self._ask({"records": handed, "pause": pause})
        if said["failed"]:
            raise NotExportedError(f"The peer failed: {said['failed']}")
        return Run(len(records), said["seconds"], Processor(said["processor_s"]))

    def _hand_over(self, record: Record) -> dict[str, Any]:
        document = self._folder / "records" / f"{record.start:%Y-%m-%d}_{INSTRUMENT}_{record.session}.xml"
        document.write_bytes(record.xml)
        return {
            "document": str(document),
            "session": record.session,
            "instrument": INSTRUMENT,
            "user": USER,
            "start": record.start.isoformat(),
            "end": record.end.isoformat(),
            "files": [[str(self._folder / "instruments" / file) for file in each] for each in record.files],
            "previews": [[str(self._folder / "previews" / preview) for preview in each] for each in record.previews],
        }

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        stdin, stdout = _pipes(self._process)
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise NotExportedError(f"The peer has ended; see {self._folder / 'peer.log'}.")
        return dict(json.loads(line))


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
