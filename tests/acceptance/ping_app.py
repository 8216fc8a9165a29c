"""A tiny Celery app, to test the nodes without the project's own app: `celery -A tests.acceptance.ping_app worker`."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery, shared_task

DELIVERY = {"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}  # seconds


def make_app(config: Mapping[str, Any]) -> Celery:
    """An app for a worker or a test; made anew each time, because an app keeps its connections."""
    app = Celery("ping")
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        broker_transport_options=DELIVERY,
        **config,
    )
    app.set_default()
    app.set_current()
    return app


@shared_task(name="ping.add")  # type: ignore[untyped-decorator]
def add(x: int, y: int) -> int:
    return x + y


@shared_task(name="ping.wait", bind=True)  # type: ignore[untyped-decorator]
def wait_while_there(self: Any, path: str) -> bool:
    """End when the file `path` is gone: whether the message was delivered again."""
    while Path(path).exists():
        time.sleep(0.05)
    return bool(self.request.delivery_info["redelivered"])


def __getattr__(name: str) -> Any:
    if name == "app":
        return make_app(
            {"broker_url": os.environ["PING_BROKER_URL"], "result_backend": os.environ["PING_RESULT_BACKEND_URL"]}
        )
    raise AttributeError(name)
