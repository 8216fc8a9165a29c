import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import require_module

require_module("psutil", "nexus-tasks[sandbox]")

import psutil  # noqa: E402

from nexus_tasks.sandbox.processes import (  # noqa: E402
    PORTS,
    Lifeline,
    ManagedProcess,
    ProcessError,
    ProcessRecord,
    free_port,
    recorded,
    stop_stale,
    wait_until,
)

# Starts a child, prints its pid, and waits; {} is what happens before.
PARENT = """
import signal, subprocess, sys, time
{}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def parent(folder: Path, before: str = "", grace: float = 5) -> ManagedProcess:
    process = ManagedProcess(
        "parent",
        [sys.executable, "-u", "-c", PARENT.format(before)],
        folder,
        ready=lambda: "child" in process.logs_since_start(),
        grace=grace,
    )
    return process


def child_of(process: ManagedProcess) -> int:
    return int(process.logs_since_start().split()[1])


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def started(tmp_path: Path) -> Iterator[ManagedProcess]:
    with parent(tmp_path) as process:
        yield process


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


def test_what_a_crashed_starter_left_is_ended_by_its_pid_file(tmp_path: Path) -> None:
    process = parent(tmp_path / "server")
    process.start()
    child = child_of(process)
    assert [record.pid for record in recorded(tmp_path)] == [process.pid]
    assert [record.name for record in stop_stale(tmp_path)] == ["parent"]
    assert not process.is_running()
    assert not runs(child)
    assert recorded(tmp_path) == []


def test_orphans_of_a_dead_program_are_ended_by_its_pid_file(tmp_path: Path) -> None:
    process = parent(tmp_path)
    process.start()
    child = child_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(5)
    assert [record.name for record in stop_stale(tmp_path)] == ["parent"]
    assert not runs(child)


def test_a_pid_that_was_given_to_another_program_is_left_alone(started: ManagedProcess, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    mine = ProcessRecord.read(started.pid_file)
    assert mine is not None
    stale = ProcessRecord("old", started.pid, mine.started - 60, "another token", signal.SIGTERM, 1)
    stale.write(elsewhere / "old.pid.json")
    assert stop_stale(elsewhere) == []
    assert started.is_running()
    assert recorded(elsewhere) == []


def test_a_file_that_is_no_pid_file_of_ours_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pid.json"
    foreign.write_text("12345")
    assert stop_stale(tmp_path) == []
    assert foreign.exists()


def test_with_a_lifeline_a_program_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = """
import sys, time
from pathlib import Path
from nexus_tasks.sandbox.processes import Lifeline, ManagedProcess
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


def test_a_free_port_can_be_listened_on_and_is_not_ephemeral() -> None:
    port = free_port()
    assert port in PORTS
    with socket.create_server(("127.0.0.1", port)):
        pass
