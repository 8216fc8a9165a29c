import errno
import importlib.metadata
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from nexus_tasks.exporters import registry
from nexus_tasks.exporters.registry import (
    DEFAULT_WINDOW,
    ENTRY_POINT_GROUP,
    discover,
    get_enabled_destinations,
    get_registry,
    window_of,
)

SHIPPED = ["cdcs", "labarchives", "elabftw", "archive"]
CONFIGURED = SHIPPED[:3]  # by the settings of these tests
WITH_LAB_FOLDER = [*CONFIGURED, "lab_folder", "archive"]
ALL_SET = {
    "NX_CDCS_URL": "https://cdcs.example.org",
    "NX_CDCS_TOKEN": "s3cret",
    "NX_ELABFTW_URL": "https://elabftw.example.org",
    "NX_ELABFTW_API_KEY": "1-s3cret",
    "NX_LABARCHIVES_URL": "https://api.labarchives.com",
    "NX_LABARCHIVES_ACCESS_KEY_ID": "key",
    "NX_LABARCHIVES_ACCESS_PASSWORD": "s3cret",
    "NX_LABARCHIVES_USER_ID": "s3cret",
}
PLUGIN = """
    from nexus_tasks.exporters.base import ExportContext, ExportResult


    class LabFolder:
        name = "lab_folder"
        priority = 50

        @property
        def enabled(self) -> bool:
            return True

        def validate_config(self) -> tuple[bool, str | None]:
            return True, None

        def export(self, context: ExportContext) -> ExportResult:
            return ExportResult(success=True, destination_name=self.name)
"""

WritePlugin = Callable[..., Path]


@pytest.fixture(autouse=True)
def _looks_again(configure: Callable[..., None]) -> Iterator[None]:
    """No settings but the test's, and what a test has found is forgotten."""
    before = set(sys.modules)
    get_registry.cache_clear()
    yield
    get_registry.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("nexus_tasks_plugins"):
            del sys.modules[name]


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


@pytest.fixture
def write_plugin(plugins: Path) -> WritePlugin:
    """Write a plugin file that is fit but for what is replaced in it."""

    def write(*changes: tuple[str, str], text: str = PLUGIN, file: str = "lab_folder.py") -> Path:
        text = dedent(text)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = plugins / file
        path.write_text(text)
        return path

    return write


def names_of(found: registry.Registry) -> list[str]:
    return [destination.name for destination in found.destinations]


def only_problem(plugins: Path) -> str:
    """What is said about the one plugin that takes no part, while the shipped ones do."""
    found = discover([plugins])
    assert set(SHIPPED) <= set(names_of(found))
    [problem] = found.problems
    assert "\n" not in str(problem)
    return str(problem)


def test_the_snippet_of_the_documentation_says_what_is_valid(
    configure: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(**ALL_SET | {"NX_CDCS_URL": "https://cdcs.example.org/rest"})
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        dedent("""
            from nexus_tasks.exporters.registry import get_enabled_destinations

            for dest in get_enabled_destinations():
                is_valid, error = dest.validate_config()
                print(f"{dest.name}: {'✓' if is_valid else '✗'} {error or ''}")
        """),
        encoding="utf-8",
    )
    runpy.run_path(str(snippet))
    cdcs, labarchives, elabftw = capsys.readouterr().out.splitlines()
    assert cdcs.startswith("cdcs: ✗ NX_CDCS_URL ")
    assert labarchives.rstrip() == "labarchives: ✓"
    assert elabftw.rstrip() == "elabftw: ✓"


def test_the_four_that_ship_are_found_the_highest_priority_first() -> None:
    found = discover([])
    assert [(destination.name, destination.priority) for destination in found.destinations] == [
        ("cdcs", 100),
        ("labarchives", 90),
        ("elabftw", 85),
        ("archive", 10),
    ]
    assert found.problems == ()


def test_those_are_enabled_whose_settings_are_there(configure: Callable[..., None]) -> None:
    assert get_enabled_destinations() == []
    configure(NX_ELABFTW_URL="https://elabftw.example.org", NX_ELABFTW_API_KEY="1-s3cret")
    assert [destination.name for destination in get_enabled_destinations()] == ["elabftw"]
    configure(**ALL_SET)
    assert [destination.name for destination in get_enabled_destinations()] == CONFIGURED


def test_a_destination_is_known_by_name_enabled_or_not() -> None:
    cdcs = get_registry().get("cdcs")
    assert cdcs is not None
    assert not cdcs.enabled
    assert get_registry().get("carrier_pigeon") is None


def test_a_plugin_takes_its_place_by_priority(
    configure: Callable[..., None], plugins: Path, write_plugin: WritePlugin
) -> None:
    write_plugin(("priority = 50", "priority = 95"))
    configure(**ALL_SET, NX_PLUGINS_PATH=plugins)
    assert [destination.name for destination in get_enabled_destinations()] == [
        "cdcs",
        "lab_folder",
        "labarchives",
        "elabftw",
    ]
    assert get_registry().problems == ()


def test_plugins_are_found_in_every_folder_that_is_named(
    configure: Callable[..., None], tmp_path: Path, plugins: Path, write_plugin: WritePlugin
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "second.py").write_text(dedent(PLUGIN).replace("lab_folder", "second"))
    write_plugin()
    configure(NX_PLUGINS_PATH=f"{plugins}, {other}")
    assert [destination.name for destination in get_enabled_destinations()] == ["lab_folder", "second"]


def test_files_that_begin_with_an_underscore_are_no_plugins(plugins: Path, write_plugin: WritePlugin) -> None:
    write_plugin(file="_helpers.py", text="raise RuntimeError")
    found = discover([plugins])
    assert names_of(found) == SHIPPED
    assert found.problems == ()


def test_a_class_that_a_plugin_only_imports_is_not_its_destination(plugins: Path, write_plugin: WritePlugin) -> None:
    text = "from nexus_tasks.exporters.destinations.cdcs import CDCSDestination\n" + dedent(PLUGIN)
    write_plugin(text=text)
    found = discover([plugins])
    assert names_of(found) == WITH_LAB_FOLDER
    assert found.problems == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import carrier_pigeon", "carrier_pigeon"),
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("raise ValueError", "ValueError"),
        ("import sys\nsys.exit('I only run on Windows')", "I only run on Windows"),
        ("x = 1", "no class with name, priority and export"),
    ],
)
def test_a_plugin_that_does_not_import_is_reported_in_one_line(
    plugins: Path, write_plugin: WritePlugin, text: str, reason: str
) -> None:
    file = write_plugin(text=text)
    problem = only_problem(plugins)
    assert str(file) in problem
    assert reason in problem


def test_a_module_that_failed_to_import_leaves_nothing_behind(plugins: Path, write_plugin: WritePlugin) -> None:
    write_plugin(text="import carrier_pigeon")
    discover([plugins])
    assert "nexus_tasks_plugins.lab_folder" not in sys.modules


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            ("priority = 50", "priority = 50\n\n    def __init__(self) -> None:\n        raise OSError('no disk')"),
            "no disk",
        ),
        (("return True\n", "raise OSError('no disk')\n"), "no disk"),
        (
            ('name = "lab_folder"', "@property\n    def name(self) -> str:\n        raise OSError('no disk')"),
            "no disk",
        ),
        (("def validate_config", "def check_config"), "it lacks one of"),
        (("def enabled", "def switched_on"), "it lacks one of"),
        (("def export", "def upload"), "no class with name, priority and export"),
        (('"lab_folder"', '"cdcs"'), "there is a destination named 'cdcs' already"),
        (('"lab_folder"', '"Lab Folder"'), "'Lab Folder' must be lower-case letters"),
        (('"lab_folder"', '"a.b"'), "must be lower-case letters"),
        (('"lab_folder"', '""'), "must be lower-case letters"),
        (('"lab_folder"', "7"), "TypeError"),
        (("priority = 50", "priority = 50\n    window = 0"), "its window must be at least 1"),
        (("priority = 50", "priority = 50\n    window = 'wide'"), "wide"),
    ],
)
def test_a_plugin_that_is_not_fit_is_reported_in_one_line(
    plugins: Path, write_plugin: WritePlugin, change: tuple[str, str], reason: str
) -> None:
    file = write_plugin(change)
    problem = only_problem(plugins)
    assert str(file) in problem
    assert reason in problem


@pytest.mark.parametrize("priority", ["'high'", "None", "-1", "1001"])
def test_a_plugin_whose_priority_is_no_number_from_0_to_1000_is_reported(
    plugins: Path, write_plugin: WritePlugin, priority: str
) -> None:
    write_plugin(("priority = 50", f"priority = {priority}"))
    assert "priority" in only_problem(plugins)


def test_a_plugin_that_breaks_later_stops_no_other(
    configure: Callable[..., None], plugins: Path, write_plugin: WritePlugin
) -> None:
    write_plugin(
        ("priority = 50", "priority = 50\n    broken = False"),
        ("return True\n", "if self.broken:\n            raise OSError('no disk')\n        return True\n"),
    )
    configure(**ALL_SET, NX_PLUGINS_PATH=plugins)
    plugin = get_registry().get("lab_folder")
    assert plugin is not None
    vars(plugin)["broken"] = True
    assert [destination.name for destination in get_enabled_destinations()] == CONFIGURED


def test_the_second_plugin_of_a_name_is_the_one_that_is_refused(plugins: Path, write_plugin: WritePlugin) -> None:
    write_plugin(file="a.py")
    second = write_plugin(file="b.py")
    found = discover([plugins])
    assert names_of(found) == WITH_LAB_FOLDER
    assert [problem.where for problem in found.problems] == [str(second)]


def test_one_bad_plugin_does_not_hide_a_good_one(plugins: Path, write_plugin: WritePlugin) -> None:
    write_plugin(text="import carrier_pigeon", file="a.py")
    write_plugin(file="b.py")
    found = discover([plugins])
    assert names_of(found) == WITH_LAB_FOLDER
    assert len(found.problems) == 1


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    problem = only_problem(missing)
    assert str(missing) in problem
    assert "NX_PLUGINS_PATH" in problem


def test_a_folder_that_cannot_be_looked_at_is_reported() -> None:
    unreachable = Path("/", "x" * 300)  # longer than a name may be: refused to everybody, root included
    problem = only_problem(unreachable)
    assert str(unreachable) in problem
    assert "File name too long" in problem


def test_a_folder_that_cannot_be_listed_is_reported(
    plugins: Path, write_plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin()
    scan = os.scandir

    def refuse(folder: Path) -> Any:
        if Path(folder) == plugins:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    problem = only_problem(plugins)
    assert str(plugins) in problem
    assert "NX_PLUGINS_PATH names it, and it cannot be read (Permission denied)" in problem


def test_a_file_can_be_named_in_place_of_its_folder(write_plugin: WritePlugin) -> None:
    found = discover([write_plugin()])
    assert names_of(found) == WITH_LAB_FOLDER
    assert found.problems == ()


def test_what_takes_no_part_is_logged_once(
    configure: Callable[..., None], plugins: Path, write_plugin: WritePlugin, caplog: pytest.LogCaptureFixture
) -> None:
    write_plugin(text="import carrier_pigeon")
    configure(NX_PLUGINS_PATH=plugins)
    get_registry()
    get_registry()
    [warning] = [record.getMessage() for record in caplog.records if record.name == registry.__name__]
    assert "carrier_pigeon" in warning


def entry(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, ENTRY_POINT_GROUP)


def with_entry_points(monkeypatch: pytest.MonkeyPatch, *entries: importlib.metadata.EntryPoint) -> None:
    def installed(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [item for item in entries if item.group == group]

    monkeypatch.setattr(registry, "entry_points", installed)


@pytest.mark.parametrize("value", ["lab_package.destination:LabFolder", "lab_package.destination"])
def test_an_installed_package_brings_a_destination_by_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    package = tmp_path / "lab_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "destination.py").write_text(dedent(PLUGIN))
    monkeypatch.syspath_prepend(tmp_path)
    with_entry_points(monkeypatch, entry("lab_folder", value))
    try:
        found = discover([])
    finally:
        for name in ("lab_package", "lab_package.destination"):
            sys.modules.pop(name, None)
    assert names_of(found) == WITH_LAB_FOLDER
    assert found.problems == ()


@pytest.mark.parametrize("value", ["carrier_pigeon:Pigeon", "nexus_tasks.exporters.base:Pigeon"])
def test_an_entry_point_that_leads_nowhere_is_reported(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with_entry_points(monkeypatch, entry("pigeon", value))
    found = discover([])
    assert names_of(found) == SHIPPED
    [problem] = found.problems
    assert problem.where == f"pigeon = {value}"


def test_a_window_is_what_the_plugin_declares_or_the_default(plugins: Path, write_plugin: WritePlugin) -> None:
    write_plugin(("priority = 50", "priority = 50\n    window = 3"))
    windows = {destination.name: window_of(destination) for destination in discover([plugins]).destinations}
    assert windows == {
        "cdcs": DEFAULT_WINDOW,
        "labarchives": 1,
        "elabftw": 32,
        "lab_folder": 3,
        "archive": DEFAULT_WINDOW,
    }
