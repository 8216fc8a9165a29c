"""What a process of this installation works with: settings, database, Celery app, destinations, in one object.

The builder and the command line pass it down; workers have the same things from Celery.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from celery import Celery
from sqlalchemy import Engine

from nexus_tasks.celery import get_app
from nexus_tasks.config import Settings, get_settings
from nexus_tasks.db.engine import engine_for
from nexus_tasks.exporters.registry import Registry, get_registry


@dataclass(frozen=True)
class Deployment:
    """One installation, as seen by one process."""

    settings: Settings
    engine: Engine
    app: Celery
    registry: Registry

    @classmethod
    def current(cls) -> "Deployment":
        """The installation that the environment describes. Raises `SettingsError`."""
        settings = get_settings()
        return cls(settings, engine_for(settings.database_url), get_app(), get_registry())

    @classmethod
    def enter(cls, environment: Mapping[str, str]) -> "Deployment":
        """Have this process work with another installation from here on: a sandbox. Raises `SettingsError`."""
        os.environ.update(environment)
        for remembered in (get_settings, get_registry, get_app):
            remembered.cache_clear()
        return cls.current()
