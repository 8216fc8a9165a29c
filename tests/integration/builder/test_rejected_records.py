"""Records that do not match the schema of the destination they go to."""

import io
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from nexus_tasks.builder.record_builder import process_new_records
from nexus_tasks.builder.schema import OWN_SCHEMA
from nexus_tasks.cli.output import sessions_table
from nexus_tasks.db import builds, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.registry import Registry
from nexus_tasks.monitoring.status import view
from nexus_tasks.states import SessionStatus
from tests.full_disk import full_disk
from tests.integration.builder.conftest import Lab
from tests.integration.delivery.by_hand import Fake

START = datetime(2025, 3, 3, 8, tzinfo=UTC)
SESSION = "https://calendar.example.org/sessions/?id=7"
TAKES_NOTHING = b'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="Photo"/></xs:schema>'


@dataclass
class Judging(Fake):
    xsd: bytes = TAKES_NOTHING

    def record_schema(self) -> bytes | None:
        return self.xsd


@pytest.fixture
def repository() -> Judging:
    return Judging("repository", 100)


@pytest.fixture
def deployment(lab: Lab, tmp_path: Path, repository: Judging) -> Deployment:
    """One session with one file, and a repository that judges."""
    made = replace(lab(), registry=Registry((repository,)))
    folder = tmp_path / "files" / "SEM"
    folder.mkdir()
    (folder / "a.txt").write_text("seen", encoding="utf-8")
    moment = (START + timedelta(minutes=10)).timestamp()
    os.utime(folder / "a.txt", (moment, moment))
    with transaction(made.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow("SEM-1", None, None, "SEM", "UTC"))
        row = SessionRow(SESSION, "SEM-1", START, START + timedelta(hours=1), "ann", SessionStatus.TO_BE_BUILT)
        sessions.add_session(connection, row)
    return made


def test_a_record_that_the_repository_would_refuse_is_an_error_and_is_kept(deployment: Deployment) -> None:
    (outcome,) = process_new_records(deployment)

    assert outcome.status is SessionStatus.ERROR
    problem = str(outcome.problem)
    assert "\n" not in problem
    assert "the schema of repository: line 2: " in problem
    (kept,) = (deployment.settings.records_path / "rejected").iterdir()
    assert str(kept) in problem
    assert kept.name.startswith("sessions-7-")
    assert b"a.txt" in kept.read_bytes()


def test_on_a_full_disk_no_part_of_it_is_kept(deployment: Deployment, repository: Judging) -> None:
    with ExitStack() as disk:

        class Filling(Judging):
            def record_schema(self) -> bytes | None:
                disk.enter_context(full_disk(room=100))
                return TAKES_NOTHING

        (outcome,) = process_new_records(
            replace(deployment, registry=Registry((Filling(repository.name, repository.priority),)))
        )

    assert outcome.status is SessionStatus.ERROR
    assert "It could not be kept for a look (File too large" in str(outcome.problem)
    assert list((deployment.settings.records_path / "rejected").iterdir()) == []


def test_nothing_of_it_is_handed_over(deployment: Deployment) -> None:
    process_new_records(deployment)

    with transaction(deployment.engine) as connection:
        for table in ("record", "delivery", "run"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one() == 0
    assert [path.name for path in deployment.settings.records_path.iterdir()] == ["rejected"]


def test_it_is_built_when_the_repository_has_another_schema(deployment: Deployment, repository: Judging) -> None:
    process_new_records(deployment)
    repository.xsd = OWN_SCHEMA.read_bytes()

    (outcome,) = process_new_records(deployment, identifiers=[SESSION], rebuild=True)

    assert outcome == replace(outcome, status=SessionStatus.BUILT_NOT_EXPORTED, problem=None)


def test_status_says_what_is_wrong_until_it_is_built(deployment: Deployment, repository: Judging) -> None:
    (outcome,) = process_new_records(deployment)

    def problem() -> str | None:
        (seen,) = view(deployment.engine, deployment.settings)
        assert seen.build is not None
        assert not seen.moving
        return seen.build.problem

    assert problem() == outcome.problem
    assert outcome.problem is not None
    assert outcome.problem[:40] in shown(sessions_table(view(deployment.engine, deployment.settings)))
    repository.xsd = OWN_SCHEMA.read_bytes()
    (outcome,) = process_new_records(deployment, identifiers=[SESSION], rebuild=True)
    assert outcome.problem is None
    with transaction(deployment.engine) as connection:
        assert builds.of_sessions(connection, [SESSION])[SESSION].problem is None


def shown(table: Table) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_record_stands_when_it_is_rebuilt_and_refused(deployment: Deployment, repository: Judging) -> None:
    repository.xsd = OWN_SCHEMA.read_bytes()
    process_new_records(deployment)
    repository.xsd = TAKES_NOTHING

    (outcome,) = process_new_records(deployment, identifiers=[SESSION], rebuild=True)

    assert outcome.status is SessionStatus.BUILT_NOT_EXPORTED
    assert "the schema of repository" in str(outcome.problem)
