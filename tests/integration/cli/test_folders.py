"""Folders of ours that cannot be written: what the command line tells about them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from nexus_tasks.builder.record_xml import RecordContent, write_record
from tests.integration.cli.conftest import Run, refused

START = datetime(2026, 3, 2, 15, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Which stands where a folder should be."""
    path = tmp_path / "a file"
    path.touch()
    return path


@pytest.fixture
def enqueue(tmp_path: Path) -> tuple[str | Path, ...]:
    record = tmp_path / "record.xml"
    record.write_bytes(write_record(RecordContent("s1", "SEM-1", "SEM", "A record", "ann", START, START, ())))
    times = ("--start", START.isoformat(), "--end", START.isoformat())
    return ("enqueue", record, "--session", "s1", "--instrument", "SEM-1", *times)


def test_logs_that_cannot_be_written_are_told_with_their_setting(
    run: Run, file: Path, enqueue: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NX_LOG_PATH", str(file))
    for command in (("build",), ("build", "--enqueue"), enqueue):
        told = refused(run(*command))
        assert str(file) in told
        assert "set NX_LOG_PATH" in told


def test_a_record_that_cannot_be_kept_is_told_with_the_setting_of_its_folder(
    run: Run, file: Path, enqueue: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NX_RECORDS_PATH", str(file))
    told = refused(run(*enqueue))
    assert str(file) in told
    assert "set NX_RECORDS_PATH" in told
