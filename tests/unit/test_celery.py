import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import celery._state
import pytest
from celery import Celery
from celery.app.utils import find_app
from celery.signals import after_setup_logger

import nexus_tasks
from nexus_tasks.celery import (
    RedisResults,
    configuration,
    create_app,
    get_app,
    result_backend,
    route,
)
from nexus_tasks.config import get_settings, load_settings
from nexus_tasks.db.engine import DatabaseError
from nexus_tasks.exporters.registry import discover, get_registry
from nexus_tasks.queues import BUILDS_QUEUE, EXPORTS_QUEUE

SHIPPED_QUEUES = {"export.archive", "export.cdcs", "export.labarchives", "export.elabftw", "exports", "builds"}
PLUGIN = """
    class Pigeon:
        name = "pigeon"
        priority = 5
        enabled = True

        def validate_config(self):
            return True, None

        def export(self, context):
            raise NotImplementedError
"""

SetAll = Callable[..., None]


@pytest.fixture(autouse=True)
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SetAll]:
    """Set NX_* for this test; apps and registries that it makes are forgotten."""
    for name in [name for name in os.environ if name.startswith("NX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    current = celery._state._tls.current_app

    def forget() -> None:
        for cached in (get_settings, get_registry, get_app):
            cached.cache_clear()

    def set_all(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        forget()

    set_all()
    yield set_all
    monkeypatch.undo()
    forget()
    celery._state._set_current_app(current)


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "pigeon.py").write_text(dedent(PLUGIN))
    return folder


@pytest.fixture
def conf() -> dict[str, Any]:
    return configuration(load_settings(), discover([]))


def queues_of(app: Celery) -> set[str]:
    return set(app.amqp.queues.keys())


def test_a_worker_without_queues_named_takes_all_of_them() -> None:
    assert queues_of(create_app(load_settings(), discover([]))) == SHIPPED_QUEUES


def test_a_plugin_has_a_queue_and_a_task_like_the_others(plugins: Path) -> None:
    app = create_app(load_settings(), discover([plugins]))
    assert queues_of(app) == SHIPPED_QUEUES | {"export.pigeon"}
    assert "export.pigeon" in app.tasks


def test_a_destination_that_is_not_enabled_has_a_task_and_a_queue_all_the_same() -> None:
    registry = discover([])
    assert registry.enabled == []
    app = create_app(load_settings(), registry)
    assert {"export.cdcs", "export.elabftw", "export.labarchives"} <= set(app.tasks)


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("export.cdcs", "export.cdcs"),
        ("export.labarchives", "export.labarchives"),
        ("export.pigeon", "export.pigeon"),
        ("finalize", EXPORTS_QUEUE),
        ("dispatch", EXPORTS_QUEUE),
        ("archive", EXPORTS_QUEUE),
        ("prune", EXPORTS_QUEUE),
        ("collect", EXPORTS_QUEUE),
        ("records.build", BUILDS_QUEUE),
        ("records.dispatch", EXPORTS_QUEUE),
    ],
)
def test_a_message_goes_to_the_queue_of_its_task(task: str, queue: str) -> None:
    assert route(task) == {"queue": queue}
    app = create_app(load_settings(), discover([]))
    assert app.amqp.router.route({}, task)["queue"].name == queue


def test_builds_have_a_queue_of_their_own() -> None:
    assert BUILDS_QUEUE in queues_of(create_app(load_settings(), discover([])))


def test_every_task_that_is_sent_is_known_to_a_worker() -> None:
    app = create_app(load_settings(), discover([]))
    assert {"finalize", "collect", "dispatch", "archive", "records.build", "records.dispatch"} <= set(app.tasks)


def test_messages_carry_json_and_nothing_else(conf: dict[str, Any]) -> None:
    assert {conf[name] for name in ("task_serializer", "result_serializer", "event_serializer")} == {"json"}
    assert conf["accept_content"] == ["json"]
    assert conf["result_accept_content"] == ["json"]


def test_a_message_is_acknowledged_when_its_task_has_ended(conf: dict[str, Any]) -> None:
    assert conf["task_acks_late"]
    assert conf["task_reject_on_worker_lost"]
    assert conf["worker_prefetch_multiplier"] == 1


def test_a_message_of_a_dead_worker_is_not_given_out_while_its_task_can_still_run() -> None:
    app = create_app(load_settings(), discover([]))
    longest = max(task.time_limit or 0 for task in app.tasks.values() if task.name != "records.build")
    assert app.conf.broker_transport_options["visibility_timeout"] > longest


def test_a_build_may_take_longer_than_its_claim_lasts_which_keeps_a_second_message_away() -> None:
    settings = load_settings()
    task = create_app(settings, discover([])).tasks["records.build"]
    assert settings.NX_BUILD_LEASE * 10 < task.soft_time_limit < task.time_limit


def test_beat_dispatches_and_archives_and_nothing_piles_up(conf: dict[str, Any]) -> None:
    schedule = conf["beat_schedule"]
    assert {entry["task"] for entry in schedule.values()} == {"dispatch", "archive", "prune", "records.dispatch"}
    assert all(entry["options"]["expires"] for entry in schedule.values())


def test_beat_dispatches_as_often_as_the_settings_say() -> None:
    schedule = configuration(load_settings(NX_DISPATCH_INTERVAL="120"), discover([]))["beat_schedule"]
    for task in ("dispatch", "records.dispatch"):
        assert schedule[task]["schedule"] == 120
        assert schedule[task]["options"]["expires"] > 120


def test_broker_and_results_are_those_of_the_settings() -> None:
    settings = load_settings(NX_BROKER_URL="redis://valkey:6379/3", NX_RESULT_BACKEND_URL="redis://valkey:6379/4")
    app = create_app(settings, discover([]))
    assert app.conf.broker_url == "redis://valkey:6379/3"
    assert isinstance(app.backend, RedisResults)
    assert app.backend.connparams["db"] == 4


def test_results_that_are_not_in_redis_are_left_to_celery() -> None:
    assert result_backend("db+postgresql+psycopg://") == "db+postgresql+psycopg://"


def test_redis_counts_chords_without_stored_results_and_other_backends_need_them() -> None:
    registry = discover([])
    assert configuration(load_settings(), registry)["task_ignore_result"]
    elsewhere = load_settings(NX_RESULT_BACKEND_URL="db+postgresql+psycopg://")
    assert not configuration(elsewhere, registry)["task_ignore_result"]


def test_errors_are_stored_with_name_and_arguments(conf: dict[str, Any]) -> None:
    assert conf["task_store_errors_even_if_ignored"]
    assert conf["result_extended"]


def test_flower_is_told_of_every_task(conf: dict[str, Any]) -> None:
    assert conf["worker_send_task_events"]


@pytest.mark.parametrize(("loglevel", "shown"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_a_task_has_one_line_in_the_log_when_it_ends(loglevel: int, shown: bool) -> None:
    of_received, root = logging.getLogger("celery.worker.strategy"), logging.getLogger()
    levels = of_received.level, root.level
    try:
        root.setLevel(loglevel)
        after_setup_logger.send(sender=None, loglevel=loglevel)
        assert of_received.isEnabledFor(logging.INFO) is shown
        assert logging.getLogger("celery.app.trace").isEnabledFor(logging.INFO)
    finally:
        of_received.setLevel(levels[0])
        root.setLevel(levels[1])


@pytest.mark.parametrize(
    "task", ["export.cdcs", "finalize", "dispatch", "archive", "prune", "records.build", "records.dispatch"]
)
def test_a_task_outlasts_a_restart_of_the_database(task: str) -> None:
    known = create_app(load_settings(), discover([])).tasks[task]
    assert DatabaseError in known.autoretry_for
    assert known.max_retries is None or known.max_retries * known.default_retry_delay >= 30


def test_the_package_has_the_app_and_makes_it_once() -> None:
    assert isinstance(nexus_tasks.app, Celery)
    assert nexus_tasks.app is nexus_tasks.app
    assert nexus_tasks.app is get_app()
    assert nexus_tasks.app.main == "nexus_tasks"


def test_the_package_makes_up_no_other_attribute() -> None:
    assert not hasattr(nexus_tasks, "no_such_thing")


def test_celery_finds_the_app_with_the_settings_of_the_environment(configure: SetAll, plugins: Path) -> None:
    configure(NX_BROKER_URL="redis://valkey.example.org:6379/7", NX_PLUGINS_PATH=plugins, NX_DISPATCH_INTERVAL="9")
    app = find_app("nexus_tasks")
    assert app is get_app()
    assert app.conf.broker_url == "redis://valkey.example.org:6379/7"
    assert app.conf.beat_schedule["dispatch"]["schedule"] == 9
    assert queues_of(app) == SHIPPED_QUEUES | {"export.pigeon"}


def test_a_worker_writes_the_main_log(configure: SetAll, tmp_path: Path) -> None:
    configure(NX_LOG_PATH=tmp_path / "logs")
    package = logging.getLogger("nexus_tasks")
    handlers, level = list(package.handlers), package.level
    try:
        after_setup_logger.send(sender=None)
        package.info("exported")
        assert "exported" in (tmp_path / "logs" / "nexuslims_record_builder.log").read_text()
    finally:
        for handler in [handler for handler in package.handlers if handler not in handlers]:
            package.removeHandler(handler)
            handler.close()
        package.setLevel(level)
