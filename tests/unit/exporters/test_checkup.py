from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from nexus_tasks.exporters.base import Check, ConfigurationError, ExportContext, ExportResult, TransientError
from nexus_tasks.exporters.checkup import Finding, check_up


def failing(error: Exception) -> Callable[[], str]:
    def look() -> str:
        raise error

    return look


@dataclass
class Plugin:
    """A destination with these checks."""

    looks: Sequence[Check] = ()
    config: tuple[bool, str | None] = (True, None)
    name: str = "mine"
    priority: int = 1
    enabled: bool = True
    looked: list[str] = field(default_factory=list)

    def validate_config(self) -> tuple[bool, str | None]:
        return self.config

    def export(self, context: ExportContext) -> ExportResult:
        raise NotImplementedError

    def checks(self) -> Sequence[Check]:
        return self.looks


class OldPlugin:
    """What NexusLIMS's contract asks for, and nothing more."""

    name, priority, enabled = "old", 1, True

    def validate_config(self) -> tuple[bool, str | None]:
        return True, None

    def export(self, context: ExportContext) -> ExportResult:
        raise NotImplementedError


def test_the_settings_come_first_and_then_every_check() -> None:
    plugin = Plugin([Check("reachable", lambda: "12 ms"), Check("rights", lambda: "may write")])
    assert list(check_up(plugin)) == [
        Finding("settings", ok=True, message="complete"),
        Finding("reachable", ok=True, message="12 ms"),
        Finding("rights", ok=True, message="may write"),
    ]


def test_nothing_is_asked_with_settings_that_are_not_valid() -> None:
    plugin = Plugin([Check("reachable", failing(AssertionError()))], config=(False, "Set NX_MINE."))
    assert list(check_up(plugin)) == [Finding("settings", ok=False, message="Set NX_MINE.")]


def test_a_check_that_fails_says_what_to_mend_and_the_others_go_on() -> None:
    plugin = Plugin([Check("template", failing(ConfigurationError("Add it."))), Check("clock", lambda: "right")])
    assert list(check_up(plugin))[1:] == [
        Finding("template", ok=False, message="Add it."),
        Finding("clock", ok=True, message="right"),
    ]


def test_after_a_needed_check_that_fails_nothing_more_is_asked() -> None:
    away = Check("reachable", failing(TransientError("It is away.")), needed=True)
    plugin = Plugin([away, Check("template", failing(AssertionError())), Check("clock", failing(AssertionError()))])
    assert [(finding.name, finding.ok) for finding in check_up(plugin)] == [
        ("settings", True),
        ("reachable", False),
        ("template", None),
        ("clock", None),
    ]


@pytest.mark.parametrize("where", ["in a check", "in checks()", "while checks() goes on", "in validate_config()"])
def test_a_defect_of_a_plugin_is_a_finding_without_its_words(where: str) -> None:
    defect = RuntimeError("token=s3cret")
    plugin = Plugin([Check("reachable", failing(defect))])
    if where == "in checks()":
        plugin.checks = failing(defect)  # type: ignore[method-assign, assignment]
    if where == "while checks() goes on":
        plugin.checks = lambda: (failing(defect)() for _ in "a")  # type: ignore[method-assign, assignment, return-value]
    if where == "in validate_config()":
        plugin.validate_config = failing(defect)  # type: ignore[method-assign, assignment]
    *_, finding = check_up(plugin)
    assert finding.ok is False
    assert "mine failed (RuntimeError)" in finding.message
    assert "s3cret" not in finding.message


@pytest.mark.parametrize("told", [None, True, (True,)])
def test_a_plugin_that_does_not_say_whether_its_settings_are_valid_is_a_finding(told: Any) -> None:
    [finding] = check_up(Plugin(config=told))
    assert (finding.name, finding.ok) == ("settings", False)
    assert "mine failed" in finding.message


def test_a_plugin_without_checks_is_judged_by_its_settings() -> None:
    assert list(check_up(OldPlugin())) == [Finding("settings", ok=True, message="complete")]
