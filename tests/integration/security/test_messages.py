"""A message is data: a worker refuses whatever is not JSON, and nothing in it is run."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from kombu.connection import Connection
from pytest_celery import CeleryTestWorker

from nexus_tasks.celery import get_app
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.registry import get_registry
from nexus_tasks.sandbox.waiting import wait_until
from tests.nodes import worker

QUEUE = "exports"


class Bomb:
    """Makes a file when somebody unpickles it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.file,)  # type: ignore[return-value]


@pytest.fixture
def app(broker_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    for name, value in environment(broker_url, database_url, tmp_path).items():
        monkeypatch.setenv(name, value)
    for remembered in (get_settings, get_registry, get_app):
        remembered.cache_clear()
    with get_app() as made:
        yield made
    for remembered in (get_settings, get_registry, get_app):
        remembered.cache_clear()


@pytest.fixture
def running(app: Celery, broker_url: str, database_url: str, tmp_path: Path) -> Iterator[CeleryTestWorker]:
    options = ["--without-gossip", "--without-mingle"]
    node = worker(
        tmp_path / "worker", app, concurrency=1, env=environment(broker_url, database_url, tmp_path), options=options
    )
    yield node
    node.kill()
    node.teardown()


def environment(broker_url: str, database_url: str, folder: Path) -> dict[str, str]:
    return {
        "NX_BROKER_URL": broker_url,
        "NX_RESULT_BACKEND_URL": "",
        "NX_DATABASE_URL": database_url,
        "NX_DATA_PATH": str(folder / "data"),
        "NX_PLUGINS_PATH": "",
    }


@pytest.mark.parametrize("said_to_be", ["application/x-python-serialize", "application/json"])
def test_a_pickle_in_a_queue_is_refused_and_harms_nothing(
    said_to_be: str, app: Celery, running: CeleryTestWorker, broker_url: str, tmp_path: Path
) -> None:
    exploded = tmp_path / "exploded"
    body = pickle.dumps(((), {"bomb": Bomb(exploded)}, {}))
    with Connection(broker_url) as connection:  # type: ignore[no-untyped-call]
        connection.Producer().publish(
            body,
            routing_key=QUEUE,
            content_type=said_to_be,
            content_encoding="binary",
            headers={"lang": "py", "task": "dispatch", "id": "pickled", "argsrepr": "()", "kwargsrepr": "{}"},
        )
    after = app.send_task("collect", args=["still here"])

    wait_until(lambda: f"collect[{after.id}] succeeded" in running.logs(), 30, "the worker to go on")
    assert not exploded.exists()


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()
    with pytest.raises(TypeError):
        json.dumps(Bomb(tmp_path))
