"""The three destinations that ship and the archive pass the tests that a plugin author runs on his own."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import ExportDestination
from nexus_tasks.exporters.destinations.archive import ArchiveDestination
from nexus_tasks.sandbox.services.faults import Fault
from nexus_tasks.sandbox.services.server import StandInServer
from nexus_tasks.sandbox.services.standins import CDCS_TOKEN, ELABFTW_API_KEY, LABARCHIVES_ACCOUNT
from nexus_tasks.testing import DestinationConformance
from tests.integration.exporters.conftest import Destination
from tests.requirements import require_module

if TYPE_CHECKING:
    from tests.integration.exporters.object_store import ObjectStore

WRONG = "wrong-and-secret-too"

Settings = Callable[[str, str], None]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Settings]:
    """Set one setting for this test."""

    def set_one(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        get_settings.cache_clear()

    monkeypatch.chdir(tmp_path)
    yield set_one
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def running_store() -> Iterator["ObjectStore"]:
    for module in ("moto", "s3fs"):
        require_module(module, "nexus-tasks[archive,dev]")
    from tests.integration.exporters.object_store import ObjectStore

    with ObjectStore() as store:
        yield store


class AgainstAStandIn(DestinationConformance):
    """A destination whose service is a stand-in, with faults."""

    creating_path: str  # of the calls that create
    creating_method = "POST"
    credential: str  # the setting that holds it

    server: StandInServer
    settings: Settings

    def use(self, destination: Destination, settings: Settings) -> ExportDestination:
        self.server, self.settings = destination.server, settings
        return destination.plugin

    def objects(self) -> Sequence[Any]:
        return self.server.objects(content=True)

    def lose_next_answer(self) -> None:
        fault = Fault.from_json(
            {
                "kind": "status_after",
                "status": 504,
                "method": self.creating_method,
                "path": self.creating_path,
                "times": 1,
            }
        )
        self.server.faults.replace([fault])

    def break_service(self) -> None:
        self.server.stop()

    def mend_service(self) -> None:
        self.server.start()

    def refuse_credentials(self) -> None:
        self.settings(self.credential, WRONG)


class TestCDCS(AgainstAStandIn):
    creating_path = "/rest/data/$"
    credential = "NX_CDCS_TOKEN"
    secrets = (CDCS_TOKEN, WRONG)

    @pytest.fixture
    def destination(self, cdcs: Destination, settings: Settings) -> ExportDestination:
        return self.use(cdcs, settings)


class TestELabFTW(AgainstAStandIn):
    creating_path = "/experiments$"
    credential = "NX_ELABFTW_API_KEY"
    secrets = (ELABFTW_API_KEY, WRONG)

    @pytest.fixture
    def destination(self, elabftw: Destination, settings: Settings) -> ExportDestination:
        return self.use(elabftw, settings)


class TestLabArchives(AgainstAStandIn):
    creating_path = "/insert_node$"
    creating_method = "GET"
    credential = "NX_LABARCHIVES_ACCESS_PASSWORD"
    secrets = (LABARCHIVES_ACCOUNT.password, LABARCHIVES_ACCOUNT.uid, LABARCHIVES_ACCOUNT.akid, WRONG)

    @pytest.fixture
    def destination(self, labarchives: Destination, settings: Settings) -> ExportDestination:
        return self.use(labarchives, settings)


class TestArchiveInAFolder(DestinationConformance):
    """Nobody can refuse us there, and no answer gets lost; `test_archive.py` asks what a full disk does."""

    root: Path

    @pytest.fixture
    def destination(self, tmp_path: Path, settings: Settings) -> ExportDestination:
        self.root = tmp_path / "archive of the lab"
        self.root.mkdir()
        settings("NX_ARCHIVE_URL", self.root.as_uri())
        return ArchiveDestination()

    def objects(self) -> Sequence[Any]:
        """The sessions' folders: older versions in them are not more of them."""
        return [
            {file.name: file.read_text(encoding="utf-8", errors="replace") for file in sorted(folder.iterdir())}
            for folder in sorted(self.root.iterdir())
        ]


class TestArchiveInAnObjectStore(DestinationConformance):
    store: "ObjectStore"
    settings: Settings

    @pytest.fixture
    def destination(self, running_store: "ObjectStore", settings: Settings) -> ExportDestination:
        self.store, self.settings = running_store, settings
        self.store.reset()
        self.secrets = (self.store.key, self.store.secret, WRONG)
        settings("NX_ARCHIVE_URL", self.store.address)
        settings("NX_ARCHIVE_OPTIONS", self.store.options())
        return ArchiveDestination()

    def objects(self) -> Sequence[Any]:
        """The sessions' folders: older versions in them are not more of them."""
        held = {name: content.decode("utf-8", errors="replace") for name, content in self.store.held().items()}
        folders = sorted({name.rpartition("/")[0] for name in held})
        return [{name: text for name, text in held.items() if name.startswith(f"{folder}/")} for folder in folders]

    def lose_next_answer(self) -> None:
        self.store.lose_answers(1)

    def break_service(self) -> None:
        self.store.stop()

    def mend_service(self) -> None:
        self.store.start()

    def refuse_credentials(self) -> None:
        self.settings("NX_ARCHIVE_OPTIONS", self.store.options(secret=WRONG))
