"""`nexus-tasks destinations` shows what there is, whatever a plugin does."""

import json
import sys
from types import SimpleNamespace

import pytest

from nexus_tasks.cli import destinations, main
from nexus_tasks.exporters.base import ExportContext, ExportResult
from nexus_tasks.exporters.registry import Registry


class Right:
    name, priority, enabled = "right", 50, True

    def validate_config(self) -> tuple[bool, str | None]:
        return True, None

    def export(self, context: ExportContext) -> ExportResult:
        raise NotImplementedError


class Unset(Right):
    """It reads a variable that is not there."""

    name = "unset"

    def validate_config(self) -> tuple[bool, str | None]:
        raise KeyError("token=s3cret")


class Undecided(Right):
    """It cannot even say whether it is enabled."""

    name = "undecided"

    @property
    def enabled(self) -> bool:  # type: ignore[override]
        raise KeyError("UNDECIDED_URL")


def test_a_plugin_whose_settings_cannot_be_asked_for_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = SimpleNamespace(registry=Registry((Unset(), Undecided(), Right())), engine=None)
    monkeypatch.setattr(destinations, "current_deployment", lambda: deployment)
    monkeypatch.setattr(destinations, "wellbeing", lambda _: {})
    monkeypatch.setattr(sys, "argv", ["nexus-tasks", "destinations", "--json"])

    with pytest.raises(SystemExit) as left:
        main()

    said = capsys.readouterr().out
    rows = {row["destination"]: row for row in json.loads(said)["destinations"]}
    assert left.value.code == 1
    assert [rows[name]["enabled"] for name in ("unset", "undecided", "right")] == [True, False, True]
    assert [rows[name]["valid"] for name in ("unset", "undecided", "right")] == [False, True, True]
    assert "unset failed (KeyError)" in rows["unset"]["reason"]
    assert "s3cret" not in said
