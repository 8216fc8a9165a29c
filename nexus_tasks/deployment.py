"""What a process of this installation works with: settings, database, Celery app, destinations, in one object.

`entry` makes it for the command line, a worker's task from its app; builder, delivery and command line are handed it.
"""

from dataclasses import dataclass

from celery import Celery
from sqlalchemy import Engine

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


def deployment_of(app: Celery) -> Deployment:
    """The installation that the environment describes, with that app. Raises `SettingsError`."""
    settings = get_settings()
    return Deployment(settings, engine_for(settings.database_url), app, get_registry())
