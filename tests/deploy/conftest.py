"""What the code has, for comparison with the files."""

from collections.abc import Iterator

import pytest

from nexus_tasks.celery import configuration
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.registry import Registry, get_registry


@pytest.fixture
def registry() -> Iterator[Registry]:
    """The destinations that ship."""
    for remembered in (get_settings, get_registry):
        remembered.cache_clear()
    yield get_registry()
    for remembered in (get_settings, get_registry):
        remembered.cache_clear()


@pytest.fixture
def queues(registry: Registry) -> set[str]:
    """Every queue that somebody must read."""
    return {queue.name for queue in configuration(get_settings(), registry)["task_queues"]}
