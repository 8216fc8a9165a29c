"""What `tests/conftest.py` promises: a machine's settings do not reach a test, and a machine may stand still."""

import os
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

REPOSITORY = Path(__file__).parents[2]
LAB = {"NX_ARCHIVE_URL": "s3://records-of-the-lab", "NX_PLUGINS_PATH": "/srv/plugins-of-the-lab", "NX_OF_A_PLUGIN": "1"}
SAY = """
import os, subprocess, sys
import tests.conftest
subprocess.run([sys.executable, "-c", '''
import os
from nexus_tasks.config import get_settings
print(get_settings().NX_ARCHIVE_URL, get_settings().NX_PLUGINS_PATH)
print(*sorted(name for name in os.environ if name.startswith("NX_") and os.environ[name]))
'''], check=True)
"""


def test_what_a_lab_has_set_reaches_neither_tests_nor_what_they_start(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in LAB.items()), encoding="utf-8")
    environment = {**os.environ, **LAB, "NX_TEST_REQUIRE": "all", "PYTHONPATH": str(REPOSITORY)}
    said = subprocess.run(
        [sys.executable, "-c", SAY], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == ["None []", "NX_TEST_REQUIRE"]


@given(st.just(0.3))
def test_a_machine_that_stands_still_for_a_moment_fails_no_property(seconds: float) -> None:
    time.sleep(seconds)
