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


class _Maker:
    """Makes installations, and stops all it has made."""

    def __init__(
        self,
        postgres: EmbeddedPostgres,
        template: str,
        names: Iterator[str],
        folders: pytest.TempPathFactory,
        broker: RabbitMq | None,
    ) -> None:
        self._postgres, self._template, self._names = postgres, template, names
        self._folders, self._broker = folders, broker
        self._made: list[Installation] = []

    def __call__(self, settings: Mapping[str, str]) -> Installation:
        url = self._postgres.create_database(next(self._names), template=self._template)
        folder: Path = self._folders.mktemp("installation")
        self._made.append(Installation(folder, url, StandIns.start(), settings, self._broker))
        return self._made[-1]

    def stop(self) -> None:
        for installation in self._made:
            installation.stop()
            installation.stand_ins.stop()
        self._made.clear()


@pytest.fixture(scope="session")
def installations(
    postgres_server: EmbeddedPostgres,
    database_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
    other_broker: RabbitMq | None,
) -> Callable[[], _Maker]:
    return lambda: _Maker(postgres_server, database_template, database_names, tmp_path_factory, other_broker)


@pytest.fixture(scope="module")
def make_installation(installations: Callable[[], _Maker]) -> Iterator[InstallationMaker]:
    """Makes installations, with database, broker and stand-ins of their own and no worker yet.

    They are stopped after the module's last test: workers and beats that idle take their part of two cores.
    """
    maker = installations()
    yield maker
    maker.stop()


@pytest.fixture(scope="session")
def running_installation(installations: Callable[[], _Maker]) -> Iterator[Installation]:
    """With a worker for all queues and beat; deliveries are given up early."""
    maker = installations()
    installation = maker({"NX_MAX_FAILURES": str(MAX_FAILURES)})
    installation.start_worker()
    installation.start_beat()
    yield installation
    maker.stop()


@pytest.fixture
def installation(running_installation: Installation) -> Iterator[Installation]:
    """The shared installation, its stand-ins empty and without faults, its settings those of this process."""
    running_installation.stand_ins.reset()
    with running_installation.entered():
        yield running_installation
