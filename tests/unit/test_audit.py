"""`.ci/audit` says by its exit status what is known of the locks; pip-audit is a stand-in here."""

import os
import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit"
STAND_IN = """#!/usr/bin/env bash
case "$*" in
  *--version*) exit 0 ;;
  *sound.lock) echo "No known vulnerabilities found" ;;
  *weak.lock) echo "Found 2 known vulnerabilities in 1 package" && exit 1 ;;
  *) echo "Max retries exceeded" && exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("locks", "status"),
    [
        (("sound.lock",), 0),
        (("weak.lock", "sound.lock"), 1),
        (("sound.lock", "unreachable.lock"), 3),
        (("unreachable.lock", "sound.lock"), 3),
        (("unreachable.lock", "weak.lock"), 1),
        (("weak.lock", "unreachable.lock"), 1),
    ],
)
def test_a_known_weakness_weighs_more_than_what_could_not_be_looked_up(
    tmp_path: Path, locks: tuple[str, ...], status: int
) -> None:
    stand_in = tmp_path / "uvx"
    stand_in.write_text(STAND_IN, encoding="utf-8")
    stand_in.chmod(0o755)
    audit = subprocess.run(
        [AUDIT, *locks], env=os.environ | {"UVX": str(stand_in)}, capture_output=True, text=True, check=False
    )
    assert audit.returncode == status
    assert ("Found 2 known" in audit.stdout) == ("weak.lock" in locks)
    assert ("unreachable.lock was not audited" in audit.stderr) == ("unreachable.lock" in locks)


def test_nothing_is_audited_without_the_tool(tmp_path: Path) -> None:
    audit = subprocess.run(
        [AUDIT, "sound.lock"],
        env=os.environ | {"UVX": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert audit.returncode == 3
    assert "Nothing was audited" in audit.stderr
