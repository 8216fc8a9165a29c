"""A share that fails while files are read costs a session time, never what its record says."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nexus_tasks.builder.readers import FileReader
from nexus_tasks.builder.record_builder import BuilderTools, process_new_records
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.deployment import Deployment
from nexus_tasks.states import SessionStatus
from tests.integration.builder.conftest import Lab
from tests.requirements import require_module

START = datetime(2025, 3, 3, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


class AwayPath(type(Path())):  # type: ignore[misc]
    """A path on a share that does not answer."""

    def open(self, *_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))


class Away(FileReader):
    """Reads from a share that fails while a file is read; the listing came before, from memory."""

    def read(self, file: Any, **options: Any) -> Any:
        return super().read(replace(file, path=AwayPath(file.path)), **options)


@pytest.fixture
def deployment(lab: Lab, tmp_path: Path) -> Deployment:
    """One session with one file, which is no picture."""
    made = lab()
    folder = tmp_path / "files" / "SEM"
    folder.mkdir()
    with transaction(made.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow("SEM-1", None, None, "SEM", "UTC"))
        row = SessionRow("s1", "SEM-1", START, START + HOUR, "ann", SessionStatus.TO_BE_BUILT)
        sessions.add_session(connection, row)
    (folder / "a.png").write_text("seen", encoding="utf-8")
    os.utime(folder / "a.png", ((START + HOUR / 2).timestamp(),) * 2)
    return made


@pytest.fixture
def tools(deployment: Deployment) -> Iterator[BuilderTools]:
    require_module("rsciio", "nexus-tasks[readers]")
    with Away() as reader:
        yield replace(BuilderTools.of(deployment), reader=reader)


def test_the_session_is_given_back_and_built_when_the_share_is_there_again(
    deployment: Deployment, tools: BuilderTools
) -> None:
    (first,) = process_new_records(deployment, tools=tools)
    (second,) = process_new_records(deployment)

    assert (first.status, first.built) == (SessionStatus.TO_BE_BUILT, False)
    assert "a.png" in str(first.problem)
    assert second.status == SessionStatus.BUILT_NOT_EXPORTED
