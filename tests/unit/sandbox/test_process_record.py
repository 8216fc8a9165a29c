import os
import signal
from pathlib import Path

from tests.requirements import require_module

require_module("psutil", "nexus-tasks[sandbox]")

from nexus_tasks.sandbox.managed_process import ManagedProcess  # noqa: E402
from nexus_tasks.sandbox.process_record import ProcessRecord, recorded, stop_stale  # noqa: E402
from tests.unit.sandbox.parent import child_of, parent, runs  # noqa: E402


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
