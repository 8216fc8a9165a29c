"""The installation that most acceptance tests share, and the parts of which others make their own."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from nexus_tasks.sandbox.postgres import EmbeddedPostgres
from nexus_tasks.sandbox.services.standins import StandIns
from tests.acceptance.installation import Installation

MAX_FAILURES = 2  # after so many failed runs a delivery of the shared installation is given up

InstallationMaker = Callable[[Mapping[str, str]], Installation]


@pytest.fixture(scope="session")
def make_installation(
    postgres_server: EmbeddedPostgres,
    database_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InstallationMaker]:
    """Makes installations, with database, broker and stand-ins of their own and no worker yet; stopped at the end."""
    made: list[Installation] = []

    def make(settings: Mapping[str, str]) -> Installation:
        name = next(database_names)
        url = postgres_server.create_database(name, template=database_template)
        folder: Path = tmp_path_factory.mktemp("installation")
        made.append(Installation(folder, url, StandIns.start(), settings))
        return made[-1]

    yield make
    for installation in made:
        installation.stop()
        installation.stand_ins.stop()


@pytest.fixture(scope="session")
def running_installation(make_installation: InstallationMaker) -> Installation:
    """With a worker for all queues and beat; deliveries are given up early."""
    installation = make_installation({"NX_MAX_FAILURES": str(MAX_FAILURES)})
    installation.start_worker()
    installation.start_beat()
    return installation


@pytest.fixture
def installation(running_installation: Installation) -> Iterator[Installation]:
    """The shared installation, its stand-ins empty and without faults, its settings those of this process."""
    running_installation.stand_ins.reset()
    with running_installation.entered():
        yield running_installation
