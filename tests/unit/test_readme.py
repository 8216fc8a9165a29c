"""The README is tried out: its example destination exports, its commands exist."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nexus_tasks.cli.commands import COMMANDS
from nexus_tasks.exporters.base import ExportContext, ExportResult
from nexus_tasks.exporters.registry import discover

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")


def example() -> str:
    """The one piece of Python in it."""
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return str(code)


def test_the_example_destination_takes_part_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = example()
    plugins, target, record = tmp_path / "plugins", tmp_path / "target", tmp_path / "record.xml"
    plugins.mkdir()
    target.mkdir()
    (plugins / "folder.py").write_text(code, encoding="utf-8")
    record.write_text("<Experiment/>", encoding="utf-8")
    monkeypatch.setenv("MY_FOLDER", str(target))

    registry = discover([plugins])
    destination = registry.get("folder")
    assert destination is not None, registry.problems
    assert destination.enabled
    assert destination.validate_config() == (True, None)
    moment = datetime(2026, 1, 27, tzinfo=UTC)
    context = ExportContext(record, "session", "instrument", moment, moment)
    context.previous_results["cdcs"] = ExportResult(True, "cdcs", record_url="https://cdcs.example.org/data?id=1")
    result = destination.export(context)

    assert result.success
    assert result.metadata == {"cdcs": "https://cdcs.example.org/data?id=1"}
    assert (target / "record.xml").read_text(encoding="utf-8") == "<Experiment/>"


def test_the_example_destination_says_that_its_setting_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_FOLDER", raising=False)
    (tmp_path / "folder.py").write_text(example(), encoding="utf-8")
    destination = discover([tmp_path]).get("folder")
    assert destination is not None
    assert not destination.enabled
    assert destination.validate_config() == (False, "MY_FOLDER names no folder")


def test_the_example_is_as_short_as_promised() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 22


def test_every_command_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"nexus-tasks ([a-z]+)", README)) - {"brings"}
    assert named
    assert named <= set(COMMANDS)


def test_every_make_target_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"make ([a-z]+)\b(?= |`|$)", README, flags=re.MULTILINE)) - {"are"}
    assert {"demo", "test"} <= named
    known = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))
    assert named & {"demo", "test", "install", "chaos"} <= known
