"""What `build --enqueue` tells and how it ends, by what workers that were fast made of the builds meanwhile."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import Connection

from nexus_tasks.builder import remote
from nexus_tasks.builder.remote import AskedFor
from nexus_tasks.cli import build
from nexus_tasks.db import builds
from nexus_tasks.db.engine import transaction
from nexus_tasks.deployment import Deployment
from tests.integration.cli.conftest import Run, done

WAITS, BROKEN = "there are no files yet", "its END event is missing"
YELLOW, RED = "\x1b[33m", "\x1b[31m"

Workers = Callable[[Callable[[Connection, str, datetime, str | None], None], str], None]


@pytest.fixture
def lab(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """With the session s1, and in colours."""
    done(run("instruments", "add", "SEM-1", "--folder", "SEM"))
    done(run("sessions", "add", "s1", "--instrument", "SEM-1", "--start", "2026-01-31T09:00", "--end", "2026-01-31T12"))
    monkeypatch.setattr(build, "errors", Console(stderr=True, force_terminal=True, color_system="standard"))
    return run


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Have builds end, or be put off, before the command looks at them."""

    def come_to(what: Callable[[Connection, str, datetime, str | None], None], problem: str) -> None:
        def ask(deployment: Deployment, identifiers: Sequence[str] | None, **options: Any) -> AskedFor:
            with transaction(deployment.engine) as connection:
                asked = builds.ask(connection, identifiers, **options)
            with transaction(deployment.engine) as connection:
                for identifier in asked:
                    what(connection, identifier, builds.clock(connection), problem)
            return AskedFor(tuple(asked))

        monkeypatch.setattr(remote, "enqueue_builds", ask)

    return come_to


def test_a_session_that_waits_for_files_does_not_fail_a_timer_that_asks_for_whatever_there_is(
    lab: Run, workers: Workers
) -> None:
    workers(builds.put_off, WAITS)

    assert f"{YELLOW}Session s1: {WAITS}" in done(lab("build", "--enqueue"))


def test_a_session_that_was_named_and_waits_for_files_fails(lab: Run, workers: Workers) -> None:
    workers(builds.put_off, WAITS)

    result = lab("build", "s1", "--enqueue")

    assert result.exit_code == 1
    assert f"{YELLOW}Session s1: {WAITS}" in result.output


def test_a_session_that_cannot_be_built_fails_whoever_asks(lab: Run, workers: Workers) -> None:
    workers(builds.end, BROKEN)

    for asked in ((), ("s1",)):
        result = lab("build", *asked, "--enqueue")
        assert result.exit_code == 1
        assert f"{RED}Session s1: {BROKEN}" in result.output
