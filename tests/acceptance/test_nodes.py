from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from pytest_celery import CeleryTestSetup, CeleryTestWorker

from nexus_tasks.sandbox.waiting import wait_until
from tests.acceptance import ping_app
from tests.nodes import worker


@pytest.fixture
def celery_setup_app(celery_setup_config: dict[str, Any]) -> Iterator[Celery]:
    app = ping_app.make_app(celery_setup_config)
    yield app
    app.close()


@pytest.fixture
def celery_worker(
    tmp_path: Path, celery_setup_config: dict[str, Any], celery_setup_app: Celery
) -> Iterator[CeleryTestWorker]:
    node = worker(
        tmp_path / "worker",
        celery_setup_app,
        app="tests.acceptance.ping_app",
        env={
            "PING_BROKER_URL": celery_setup_config["broker_url"],
            "PING_RESULT_BACKEND_URL": celery_setup_config["result_backend"],
        },
    )
    yield node
    node.kill()  # leaving in an orderly way takes seconds, and one test does
    node.teardown()


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_a_task_runs_in_a_real_worker_that_leaves_when_asked_to(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(control=True)
    assert len(celery_setup) == 3
    assert ping_app.add.delay(2, 3).get(timeout=10) == 5
    celery_setup.worker.assert_log_exists("Task ping.add", timeout=5)
    pong = celery_setup.app.control.ping(destination=[celery_setup.worker.hostname()], timeout=5)
    assert pong == [{celery_setup.worker.hostname(): {"ok": "pong"}}]
    celery_setup.worker.kill(signal="SIGTERM")
    wait_until(lambda: celery_setup.worker.container.status == "exited", 10, "the worker to leave")
    assert celery_setup.worker.container.process.returncode == 0


def test_a_killed_worker_is_gone_with_its_children_and_its_task_comes_again(
    celery_setup: CeleryTestSetup, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()
    result = ping_app.wait_while_there.delay(str(held))
    celery_setup.worker.wait_for_log("Task ping.wait", timeout=10)
    process = celery_setup.worker.container.process
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    assert len(family) > 2
    celery_setup.worker.kill()
    assert celery_setup.worker.container.status == "exited"
    assert alive(family) == []
    held.unlink()  # not before: however slow this machine is, the killed worker cannot have ended the task
    celery_setup.worker.restart()
    assert celery_setup.worker.container.status == "running"
    assert result.get(timeout=20) is True


def test_a_killed_broker_comes_back_where_it_was(celery_setup: CeleryTestSetup) -> None:
    port = celery_setup.broker.container.server.port
    celery_setup.broker.kill()
    assert celery_setup.broker.container.status == "exited"
    celery_setup.broker.restart()
    assert celery_setup.broker.container.server.port == port
    assert ping_app.add.delay(1, 1).get(timeout=20) == 2
