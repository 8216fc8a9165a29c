"""Runs `nexus-tasks` in a process of its own and tells which modules that has imported."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

CHILD = """
import json, sys
from nexus_tasks.cli import main
try:
    main()
finally:
    with open("imported.json", "w", encoding="utf-8") as file:
        json.dump(list(sys.modules), file)
"""


def imported_by(arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None) -> set[str]:
    """The modules in `sys.modules` when the command has succeeded; `cwd` is an empty folder."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads((cwd / "imported.json").read_text(encoding="utf-8")))
