"""nexus-tasks publishes the records of microscopy sessions to CDCS and to electronic lab notebooks.

`celery -A nexus_tasks worker` finds the Celery app here; it is made when first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

    app: Celery

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "app":
        from nexus_tasks.celery import get_app

        return get_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
