from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery._state
import pytest

from nexus_tasks.celery import create_app
from nexus_tasks.config import load_settings
from nexus_tasks.db.engine import engine_for
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.registry import Registry

Lab = Callable[..., Deployment]


@pytest.fixture
def lab(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Lab]:
    """Make an installation without destinations, with its instruments' files below `files`."""
    current = celery._state._tls.current_app
    apps = []
    (tmp_path / "files").mkdir()

    def make(**settings: Any) -> Deployment:
        paths = {"NX_DATA_PATH": tmp_path / "data", "NX_INSTRUMENT_DATA_PATH": tmp_path / "files"}
        loaded = load_settings(
            **{"NX_DATABASE_URL": database_url, "NX_BROKER_URL": broker_url, **paths, **settings},
        )
        registry = Registry(())
        apps.append(create_app(loaded, registry))
        return Deployment(loaded, engine_for(database_url), apps[-1], registry)

    yield make
    for app in apps:
        app.close()
    engine_for(database_url).dispose()
    celery._state._set_current_app(current)
