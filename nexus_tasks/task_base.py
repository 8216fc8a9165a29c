"""What the Celery tasks have in common: they find their installation, and wait for a database that restarts."""

from celery import Task

from nexus_tasks.db.engine import DatabaseError
from nexus_tasks.deployment import Deployment, deployment_of

DATABASE_RETRY_S = 2
DATABASE_RETRIES = 15  # half a minute of patience with a database that restarts


class DatabaseTask(Task):  # type: ignore[misc]
    """A task that works with PostgreSQL."""

    autoretry_for = (DatabaseError,)
    max_retries: int | None = DATABASE_RETRIES
    default_retry_delay = DATABASE_RETRY_S

    @property
    def deployment(self) -> Deployment:
        """The installation whose worker runs the task. Raises `SettingsError`."""
        return deployment_of(self.app)


def of_its_own(task: type[Task]) -> type[Task]:
    """A class for one app alone: Celery binds an app to the class of a task."""
    return type(task.__name__, (task,), {"__doc__": task.__doc__})
