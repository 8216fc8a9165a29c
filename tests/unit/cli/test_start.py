"""What is imported before a command does its work: as little as it needs, counted in a process of its own."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from nexus_tasks.cli import cli
from nexus_tasks.cli.commands import COMMANDS
from tests.unit.cli.imported import imported_by

LARGE = {
    "alembic",
    "celery",
    "kombu",
    "lxml",
    "numpy",
    "psycopg",
    "pydantic",
    "redis",
    "requests",
    "rich",
    "sqlalchemy",
}
PACKAGE = Path(__file__).parents[3] / "nexus_tasks" / "cli"


def test_the_version_is_told_without_any_large_package(tmp_path: Path) -> None:
    imported = imported_by(["--version"], cwd=tmp_path)
    assert LARGE & imported == set()
    assert {name for name in imported if name.startswith("nexus_tasks")} == {
        "nexus_tasks",
        "nexus_tasks.cli",
        "nexus_tasks.cli.commands",
        "nexus_tasks.plain_error",
    }


def test_the_settings_are_shown_without_database_and_celery(tmp_path: Path) -> None:
    imported = imported_by(["config"], cwd=tmp_path)
    assert "pydantic" in imported
    assert imported & (LARGE - {"pydantic", "rich"}) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_other_one(name: str, tmp_path: Path) -> None:
    imported = imported_by([name, "--help"], cwd=tmp_path)
    others = {f"nexus_tasks.cli.{place.partition(':')[0]}" for place in COMMANDS.values()}
    assert imported & others == {f"nexus_tasks.cli.{COMMANDS[name].partition(':')[0]}"}


def test_the_help_lists_every_command_with_what_it_does() -> None:
    listed = CliRunner(env={"COLUMNS": "300"}).invoke(cli, ["--help"]).output
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    assert list(commands) == list(COMMANDS)
    places = [listed.index(f"│ {name} ") for name in COMMANDS]
    assert places == sorted(places)
    for name, command in commands.items():
        assert command.name == name
        assert command.help.split("\n\n")[0].replace("\n", " ") in listed


def test_every_command_of_the_modules_is_in_the_table() -> None:
    """A module that has a group `cli`, or a function of its own name, is a command."""
    modules = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.glob("[a-z]*.py")}
    groups = {
        f"{name}:cli"
        for name, module in modules.items()
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "cli"
    }
    functions = {
        f"{name}:{name}"
        for name, module in modules.items()
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name == name
    }
    assert groups | functions <= set(COMMANDS.values())


def test_without_a_command_one_is_asked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from nexus_tasks.cli import main; main()", "-v"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Missing command: see `nexus-tasks --help`." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistyped_command_is_recognised() -> None:
    assert "Did you mean 'status'?" in CliRunner(env={"COLUMNS": "100"}).invoke(cli, ["statsu"]).output
