"""What a process of this installation works with: settings, database, Celery app, destinations, in one object.

`entry` makes it for the command line, a worker's task from its app; builder, delivery and command line are handed it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from nexus_tasks.config import Settings, get_settings
from nexus_tasks.db.engine import engine_for
from nexus_tasks.exporters.registry import Registry, get_registry

if TYPE_CHECKING:
    from celery import Celery


@dataclass(frozen=True)
class Deployment:
    """One installation, as seen by one process. Without an app of its own it uses the process's, made when needed."""

    settings: Settings
    engine: Engine
    own_app: "Celery | None"
    registry: Registry

    @cached_property
    def app(self) -> "Celery":
        """The Celery app; a command that sends nothing never asks for it, and does not import Celery."""
        if self.own_app is not None:
            return self.own_app
        from nexus_tasks.celery import get_app

        return get_app()


def deployment_of(app: "Celery | None") -> Deployment:
    """The installation that the environment describes, with that app, or this process's. Raises `SettingsError`."""
    settings = get_settings()
    return Deployment(settings, engine_for(settings.database_url), app, get_registry())
