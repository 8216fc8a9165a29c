import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery._state
import pytest

from nexus_tasks.celery import create_app
from nexus_tasks.config import load_settings
from nexus_tasks.db.engine import engine_for
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportDestination
from nexus_tasks.exporters.registry import Registry
from tests.integration.delivery.by_hand import Deploy


@pytest.fixture
def deploy(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Deploy]:
    """Make an installation with these destinations; settings are named as in the environment."""
    current = celery._state._tls.current_app
    apps = []

    def make(*destinations: ExportDestination, **settings: Any) -> Deployment:
        ranked = tuple(sorted(destinations, key=lambda destination: -destination.priority))
        loaded = load_settings(
            **{"NX_DATABASE_URL": database_url, "NX_BROKER_URL": broker_url, "NX_DATA_PATH": tmp_path, **settings}
        )
        registry = Registry(ranked)
        apps.append(create_app(loaded, registry))
        return Deployment(loaded, engine_for(database_url), apps[-1], registry)

    yield make
    for app in apps:
        app.close()
    engine_for(database_url).dispose()
    celery._state._set_current_app(current)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
