import os
import signal
import sys
from pathlib import Path

import pytest

from tests.requirements import require_module

require_module("psutil", "nexus-tasks[sandbox]")

import psutil  # noqa: E402

from nexus_tasks.sandbox.managed_process import ManagedProcess  # noqa: E402
from nexus_tasks.sandbox.process_error import ProcessError  # noqa: E402
from nexus_tasks.sandbox.waiting import wait_until  # noqa: E402
from tests.unit.sandbox.parent import STUBBORN, child_of, parent, runs  # noqa: E402


def test_a_program_runs_in_a_session_of_its_own_until_it_is_stopped(started: ManagedProcess) -> None:
    assert started.is_running()
    assert os.getsid(started.pid) == started.pid
    child = child_of(started)
    started.stop()
    assert not started.is_running()
    assert started.returncode == -signal.SIGTERM
    assert not runs(child)
    assert not started.pid_file.exists()


def test_a_program_that_ignores_the_stop_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    with parent(tmp_path, STUBBORN, grace=0.1) as process:
        child = child_of(process)
        process.stop()
        assert process.returncode == -signal.SIGKILL
        assert not runs(child)


def test_kill_takes_the_children_along(started: ManagedProcess) -> None:
    child = child_of(started)
    started.kill()
    assert started.returncode == -signal.SIGKILL
    assert not runs(child)


def test_children_of_a_program_that_died_by_itself_are_ended(started: ManagedProcess) -> None:
    child = child_of(started)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait(5) == -signal.SIGKILL
    assert runs(child)
    started.stop()
    assert not runs(child)


def test_a_restarted_program_keeps_its_log_and_gets_a_new_pid(started: ManagedProcess) -> None:
    before = started.pid
    started.restart()
    assert started.is_running()
    assert started.pid != before
    assert started.logs().count("child") == 2
    assert started.logs_since_start().count("child") == 1


def test_a_suspended_program_stands_still_and_can_go_on_or_be_stopped(started: ManagedProcess) -> None:
    def status() -> set[str]:
        return {psutil.Process(pid).status() for pid in (started.pid, child_of(started))}

    started.suspend()
    wait_until(lambda: status() == {psutil.STATUS_STOPPED}, 5, "both to stand still")
    assert started.is_running()
    started.resume()
    wait_until(lambda: psutil.STATUS_STOPPED not in status(), 5, "both to go on")
    started.suspend()
    started.stop()
    assert started.returncode == -signal.SIGTERM


def test_a_program_that_ends_early_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = ManagedProcess(
        "brief", [sys.executable, "-c", "raise SystemExit('no port left')"], tmp_path, ready=lambda: False
    )
    with pytest.raises(ProcessError, match=r"brief ended with status 1\.(.|\n)*no port left"):
        process.start()
    assert not process.pid_file.exists()


def test_a_program_that_is_not_ready_in_time_is_an_error_and_ended(tmp_path: Path) -> None:
    process = parent(tmp_path)
    process.deadline = 0.2
    process.ready = lambda: False
    with pytest.raises(ProcessError, match="parent was not ready after"):
        process.start()
    assert not process.is_running()


def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="nothing cannot be started"):
        ManagedProcess("nothing", [tmp_path / "nothing"], tmp_path).start()


def test_the_environment_is_added_to(tmp_path: Path) -> None:
    process = ManagedProcess(
        "printer",
        [sys.executable, "-c", "import os; print(os.environ['WORD'], 'PATH' in os.environ)"],
        tmp_path,
        env={"WORD": "hello"},
    )
    process.start()
    assert process.wait(10) == 0
    assert process.logs() == "hello True\n"
    process.stop()


def test_a_second_start_in_the_same_folder_is_refused(started: ManagedProcess) -> None:
    with pytest.raises(ProcessError, match=f"parent already runs .*process {started.pid}"):
        parent(started.folder).start()
    assert started.is_running()
