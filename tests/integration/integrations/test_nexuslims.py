"""What NexusLIMS hands over, without NexusLIMS; with it: `tests/live/test_nexuslims.py`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

from nexus_tasks.builder.readers.base import Dataset
from nexus_tasks.builder.record_xml import ActivityContent, RecordContent, write_record
from nexus_tasks.celery import get_app
from nexus_tasks.config import get_settings
from nexus_tasks.db import records, sessions
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.db.rows import InstrumentRow
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import current_deployment
from nexus_tasks.exporters.registry import get_registry
from nexus_tasks.integrations.nexuslims import hand_over

SESSION, PID = "session", "SEM-1"
START, END = datetime(2026, 3, 2, 15, tzinfo=UTC), datetime(2026, 3, 2, 16, tzinfo=UTC)
PREVIEW = PurePosixPath("SEM/a.dm4.thumb.png")
LONG_AGO = 1_000_000_000  # seconds


@dataclass
class Context:
    """A record as NexusLIMS hands it to its destinations."""

    xml_file_path: Path
    session_identifier: str = SESSION
    instrument_pid: str = PID
    dt_from: datetime = START
    dt_to: datetime = END
    user: str | None = "ann"


@pytest.fixture
def deployment(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Without destinations, and with an instrument."""
    monkeypatch.setenv("NX_DATABASE_URL", database_url)
    monkeypatch.setenv("NX_BROKER_URL", "redis://127.0.0.1:1/0")  # nobody is there, and nobody is needed
    monkeypatch.chdir(tmp_path)
    remembered = (get_settings, get_registry, get_app)
    for each in remembered:
        each.cache_clear()
    deployment = current_deployment()
    with transaction(deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow(PID, None, None, "SEM", "UTC"))
    yield deployment
    for each in remembered:
        each.cache_clear()
    engine_for(database_url).dispose()


@pytest.fixture
def built(tmp_path: Path) -> Context:
    """A record with one picture, which lies where NexusLIMS keeps them."""
    dataset = Dataset("a.dm4", PurePosixPath("SEM/a.dm4"), "DM4", "Image", START, (), None, "reader")
    activity = ActivityContent(START, (dataset,), (PREVIEW,))
    record = tmp_path / "record.xml"
    record.write_bytes(write_record(RecordContent(SESSION, PID, PID, "A record", "ann", START, END, (activity,))))
    (tmp_path / "theirs" / PREVIEW).parent.mkdir(parents=True)
    (tmp_path / "theirs" / PREVIEW).write_text("the first", encoding="utf-8")
    return Context(record)


def preview_of(deployment: Deployment) -> Path:
    with transaction(deployment.engine) as connection:
        [activity] = records.lock_of_session(connection, SESSION).activities
    return deployment.settings.previews_path / str(activity["previews"][0])


def test_a_picture_that_is_handed_over_again_is_left_as_it_is(
    deployment: Deployment, built: Context, tmp_path: Path
) -> None:
    hand_over(built, deployment, tmp_path / "theirs")
    os.utime(preview_of(deployment), (LONG_AGO, LONG_AGO))

    hand_over(built, deployment, tmp_path / "theirs")

    assert preview_of(deployment).stat().st_mtime == LONG_AGO


def test_who_reads_a_picture_while_another_is_handed_over_has_all_of_it(
    deployment: Deployment, built: Context, tmp_path: Path
) -> None:
    hand_over(built, deployment, tmp_path / "theirs")
    (tmp_path / "theirs" / PREVIEW).write_text("another", encoding="utf-8")
    with preview_of(deployment).open(encoding="utf-8") as reading:
        hand_over(built, deployment, tmp_path / "theirs")
        assert reading.read() == "the first"

    assert preview_of(deployment).read_text(encoding="utf-8") == "another"
