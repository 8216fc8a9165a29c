"""Files whose names are not UTF-8 are built, handed over and named like any other; real files and rows."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import task_base
from nexus_tasks.builder import tasks
from nexus_tasks.builder.readers import FileReader
from nexus_tasks.builder.record_builder import BuilderTools, process_new_records
from nexus_tasks.builder.remote import BUILD, enqueue_builds
from nexus_tasks.db import builds, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.delivery.plugin_call import call_plugin
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.registry import Registry
from nexus_tasks.states import SessionStatus
from tests.integration.builder.conftest import Lab
from tests.integration.delivery.by_hand import cdcs, started

START = datetime(2025, 3, 3, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATIN = b"H\xe4rte.txt"


class Disturbed(FileReader):
    """Somebody writes to each file while it is read."""

    def read(self, file: Any, **options: Any) -> Any:
        found = super().read(file, **options)
        file.path.write_text("more", encoding="utf-8")
        return found


@pytest.fixture
def deployment(lab: Lab, tmp_path: Path) -> Deployment:
    """Two sessions, the first with a file whose name is in Latin-1, and one destination."""
    made = replace(lab(), registry=Registry((cdcs(),)))
    folder = tmp_path / "files" / "SEM"
    folder.mkdir()
    with transaction(made.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow("SEM-1", None, None, "SEM", "UTC"))
        for number, name in enumerate((LATIN, b"plain.txt")):
            begin = START + number * HOUR
            row = SessionRow(f"s{number}", "SEM-1", begin, begin + HOUR, "ann", SessionStatus.TO_BE_BUILT)
            sessions.add_session(connection, row)
            path = os.fsencode(folder) + b"/" + name
            Path(os.fsdecode(path)).write_text("seen", encoding="utf-8")
            os.utime(path, ((begin + HOUR / 2).timestamp(),) * 2)
    return made


def test_its_record_reaches_a_destination_with_the_file_as_it_is_named(deployment: Deployment, tmp_path: Path) -> None:
    outcomes = process_new_records(deployment)

    assert {outcome.status for outcome in outcomes} == {SessionStatus.BUILT_NOT_EXPORTED}
    (plugin,) = deployment.registry.destinations
    call_plugin(started(deployment, "cdcs"), plugin, deployment.engine, deployment.settings)
    ((file,),) = [activity.files for activity in plugin.contexts[0].activities]  # type: ignore[attr-defined]
    assert os.fsencode(file) == os.fsencode(tmp_path / "files" / "SEM") + b"/" + LATIN
    assert file.read_text(encoding="utf-8") == "seen"


def test_a_problem_that_names_it_stops_no_other_session(deployment: Deployment) -> None:
    with Disturbed() as reader:
        tools = replace(BuilderTools.of(deployment), reader=reader)
        first, second = process_new_records(deployment, tools=tools)

    assert first.waits
    assert "SEM/H\N{REPLACEMENT CHARACTER}rte.txt has changed" in str(first.problem)
    assert "plain.txt has changed" in str(second.problem)
    with transaction(deployment.engine) as connection:
        assert builds.of_sessions(connection, ["s0"])["s0"].problem == first.problem


def test_a_worker_comes_to_an_end_with_it(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue_builds(deployment, ["s0"])
    with Disturbed() as reader:
        tools = replace(BuilderTools.of(deployment), reader=reader)
        monkeypatch.setattr(task_base, "deployment_of", lambda _: deployment)
        monkeypatch.setattr(tasks, "_tools", lambda _: tools)
        result = deployment.app.tasks[BUILD].apply(kwargs={"session": "s0"}, throw=True).get()

    assert "has changed" in result["problem"]
    with transaction(deployment.engine) as connection:
        known = builds.of_sessions(connection, ["s0"])["s0"]
    assert (known.problem, known.under_way, known.moving) == (result["problem"], False, False)
