import subprocess
import sys
from pathlib import Path

from tests.requirements import require_module

require_module("psutil", "nexus-tasks[sandbox]")

from nexus_tasks.sandbox.lifeline import Lifeline  # noqa: E402
from nexus_tasks.sandbox.managed_process import ManagedProcess  # noqa: E402
from nexus_tasks.sandbox.process_record import recorded  # noqa: E402
from nexus_tasks.sandbox.waiting import wait_until  # noqa: E402
from tests.unit.sandbox.parent import runs  # noqa: E402


def test_with_a_lifeline_a_program_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = """
import sys, time
from pathlib import Path
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.managed_process import ManagedProcess
folder = Path(sys.argv[1])
lifeline = Lifeline(folder)
process = ManagedProcess("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], folder)
process.start()
print(process.pid, flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", starter, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        pid = int(running.stdout.readline())
        assert runs(pid)
        running.kill()
    wait_until(lambda: not runs(pid), 10, "the program to end")
    wait_until(lambda: recorded(tmp_path) == [], 10, "the pid file to go")


def test_a_lifeline_that_is_closed_ends_what_runs(started: ManagedProcess) -> None:
    with Lifeline(started.folder):
        assert started.is_running()
    assert not started.is_running()
