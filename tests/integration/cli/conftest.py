from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nexus_tasks.cli import cli
from nexus_tasks.config import get_settings
from nexus_tasks.db.engine import engine_for
from nexus_tasks.plain_error import PlainError

Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `nexus-tasks` in this process, on a database of the test's own, with `tmp_path` as working directory."""
    monkeypatch.setenv("NX_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])
    monkeypatch.undo()
    get_settings.cache_clear()
    engine_for(database_url).dispose()


def refused(result: Result) -> str:
    """What a command that failed tells: one line, without a traceback."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, PlainError), result.exception
    message = str(result.exception)
    assert "\n" not in message
    return message


def done(result: Result) -> str:
    """What a command that succeeded printed."""
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output
