"""docs/operating.md, failures.md and scaling.md say what the code does: settings, commands, times."""

import ast
import logging
import re
import subprocess
from pathlib import Path

import pytest
import typer.main

from nexus_tasks import celery
from nexus_tasks.cli import cli
from nexus_tasks.config import Settings, load_settings
from nexus_tasks.db import workers
from nexus_tasks.delivery import attempt, rescuer
from nexus_tasks.monitoring import attention
from nexus_tasks.monitoring.logs import write_log_files
from nexus_tasks.settings_guide import GUIDE, written
from tests.requirements import require_program

ROOT = Path(__file__).parents[2]
PAGES = ("operating", "failures", "scaling")
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_every_setting_of_the_code_has_a_line_once_and_no_other_has_one() -> None:
    guided = [name for settings in GUIDE.values() for name in settings]
    assert sorted(guided) == sorted(Settings.model_fields)


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_table_of_settings_is_what_the_code_says() -> None:
    text = page("operating")
    assert text == written(text), "run `python -m nexus_tasks.settings_guide docs/operating.md`"


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_that_a_page_names_exists(name: str) -> None:
    assert set(re.findall(r"NX_[A-Z0-9_]+[A-Z0-9]", page(name))) <= set(Settings.model_fields)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_option_that_a_page_names_exists(name: str) -> None:
    group = typer.main.get_command(cli)
    named = re.findall(r"(?<!/)nexus-tasks ((?:[a-z-]+ ?)+)((?:[^`\n]*?))(?=`|\n|  #)", page(name))
    assert named
    for words, rest in named:
        command = group
        for word in words.split():
            known = getattr(command, "commands", {})
            if word not in known:
                assert not known or command is not group, f"nexus-tasks {words}"
                break
            command = known[word]
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= options, f"nexus-tasks {words}{rest}"


def test_the_times_on_the_pages_are_those_of_the_code() -> None:
    operating, failures = page("operating"), page("failures")
    assert DEFAULTS["NX_RETRY_DELAYS"] == [60, 300, 900, 3600]
    assert "1, 5 and 15 minutes, then every hour" in failures
    assert f"after {DEFAULTS['NX_MAX_FAILURES']} failed attempts" in failures
    assert (DEFAULTS["NX_PAUSE_AFTER"], DEFAULTS["NX_PAUSE_FIRST"], DEFAULTS["NX_PAUSE_LONGEST"]) == (5, 30, 600)
    assert "five records in a row" in failures
    assert "30 s, doubling to 10 minutes" in failures
    assert attempt.LONGEST_WAIT_IN_A_RUN_S == 30
    assert rescuer.DEATHS_IN_QUARANTINE == 3
    assert f"`NX_CALL_DEADLINE`, {DEFAULTS['NX_CALL_DEADLINE']:g} s" in operating  # SIGTERM has no limit of its own
    assert f"{celery.SOFT_SHUTDOWN_S} s" not in operating
    assert re.search(rf"SIGQUIT and the second Ctrl-C[^.]*{celery.SOFT_SHUTDOWN_S} s", page("scaling"))
    assert workers.SILENT_AFTER.total_seconds() == 100
    assert "100 s" in operating
    assert f"{attention.CLOCK_TOLERANCE_S} s" in operating
    assert f"NX_KEEP_RUNS_DAYS` ({DEFAULTS['NX_KEEP_RUNS_DAYS']})" in operating


def test_the_log_is_rotated_as_the_page_says(tmp_path: Path) -> None:
    logrotate = require_program("logrotate")
    [(path, rules)] = re.findall(r"^  ```\n  (/\S+) (\{.*?\})\n  ```", page("operating"), re.DOTALL | re.MULTILINE)
    log = tmp_path / Path(path).name
    example = tmp_path / "example"
    example.write_text(f"{log} {rules.replace('su nexus nexus', '')}\n", encoding="utf-8")
    example.chmod(0o644)
    package = logging.getLogger("nexus_tasks")
    handlers, level = list(package.handlers), package.level
    try:
        write_log_files(load_settings(NX_LOG_PATH=tmp_path))
        package.info("before")
        subprocess.run([logrotate, "--force", "--state", tmp_path / "state", example], check=True)
        package.info("after")
    finally:
        for handler in [handler for handler in package.handlers if handler not in handlers]:
            package.removeHandler(handler)
            handler.close()
        package.setLevel(level)
    assert log.read_text(encoding="utf-8").endswith("after\n")
    assert "before" not in log.read_text(encoding="utf-8")
    assert (tmp_path / f"{log.name}.1").read_text(encoding="utf-8").endswith("before\n")


def test_the_messages_that_the_page_explains_are_those_of_the_code() -> None:
    said = "\n".join(text for path in (ROOT / "nexus_tasks").rglob("*.py") for text in texts_of(path))
    explained = [
        piece for row in messages() for piece in re.split(r"…|; |\(", row) if len(piece.strip()) >= LEAST_PIECE
    ]
    assert len(explained) > 50
    assert [piece for piece in explained if plain(piece) not in said] == []


LEAST_PIECE = 10  # characters of a message that are looked for


def messages() -> list[str]:
    """The first cells of the tables of messages."""
    found, wanted = [], False
    for line in page("failures").splitlines():
        if line.startswith("| message |"):
            wanted = True
        elif not line.startswith("|"):
            wanted = False
        elif wanted and not line.startswith("|---"):
            found.append(line.split(" | ")[0].removeprefix("| "))
    return found


def texts_of(path: Path) -> list[str]:
    """Every text in a module, with … for what is put into it when it runs."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return [plain(text) for text in found]


def plain(text: str) -> str:
    return re.sub(r"\{[^{}]*\}|%[sd]", "…", text).replace("`", "").strip().rstrip(".:").lower()
