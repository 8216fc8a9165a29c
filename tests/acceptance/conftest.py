"""The installation that most acceptance tests share, and the parts of which others make their own.

`NX_TEST_BROKER=rabbitmq` gives every installation RabbitMQ as its broker, with results in Valkey.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from nexus_tasks.sandbox.postgres import EmbeddedPostgres
from nexus_tasks.sandbox.services.standins import StandIns
from tests.acceptance.installation import Installation
from tests.acceptance.rabbitmq import RabbitMq

BROKER_VARIABLE = "NX_TEST_BROKER"  # valkey (when not set) or rabbitmq
MAX_FAILURES = 2  # after so many failed runs a delivery of the shared installation is given up

InstallationMaker = Callable[[Mapping[str, str]], Installation]


@pytest.fixture(scope="session")
def rabbitmq_server(servers_folder: Path) -> Iterator[RabbitMq]:
    with RabbitMq(servers_folder / "rabbitmq") as server:
        yield server


@pytest.fixture(scope="session")
def other_broker(request: pytest.FixtureRequest) -> RabbitMq | None:
    """What takes the place of Valkey as broker of every installation."""
    wanted = os.environ.get(BROKER_VARIABLE) or "valkey"
    assert wanted in {"valkey", "rabbitmq"}, f"{BROKER_VARIABLE} is valkey or rabbitmq"
    return request.getfixturevalue("rabbitmq_server") if wanted == "rabbitmq" else None


@pytest.fixture(scope="session")
def make_installation(
    postgres_server: EmbeddedPostgres,
    database_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
    other_broker: RabbitMq | None,
) -> Iterator[InstallationMaker]:
    """Makes installations, with database, broker and stand-ins of their own and no worker yet; stopped at the end."""
    made: list[Installation] = []

    def make(settings: Mapping[str, str]) -> Installation:
        name = next(database_names)
        url = postgres_server.create_database(name, template=database_template)
        folder: Path = tmp_path_factory.mktemp("installation")
        made.append(Installation(folder, url, StandIns.start(), settings, other_broker))
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
