"""What a process of this installation works with: settings, database, Celery app, destinations, in one object.

`entry` makes it from the environment, a worker's task from its app; builder, delivery and command line are handed it.
"""

from dataclasses import dataclass

from celery import Celery
from sqlalchemy import Engine

from nexus_tasks.config import Settings
from nexus_tasks.exporters.registry import Registry


@dataclass(frozen=True)
class Deployment:
    """One installation, as seen by one process."""

    settings: Settings
    engine: Engine
    app: Celery
    registry: Registry
