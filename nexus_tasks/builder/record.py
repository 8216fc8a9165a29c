"""Builds the record of one session from its files, without the database; called by `record_builder`.

Find the files, group them into activities, read each in the child process, keep its previews, write the XML and
validate it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path, PurePosixPath

from nexus_tasks.builder.activities import group
from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.finder import FileFinder
from nexus_tasks.builder.previews import keep_preview
from nexus_tasks.builder.readers import FileReader
from nexus_tasks.builder.record_xml import ActivityContent, ActivityPaths, RecordContent, activity_paths, write_record
from nexus_tasks.builder.schema import validate
from nexus_tasks.builder.session_details import NOTHING_SAID, SessionDetails


@dataclass(frozen=True)
class SessionToBuild:
    """One use of an instrument whose record is wanted."""

    identifier: str
    instrument_pid: str
    instrument_name: str
    folder: Path  # the instrument's files, relative to the data root
    start: datetime  # with time zone; files after it belong to the session
    end: datetime  # with time zone; files up to it belong to the session
    user: str | None
    zone: tzinfo  # the instrument's: of times in its files that name none, and of times in the record
    clock_offset: timedelta = timedelta(0)  # how far the clock that dates the files is ahead
    details: SessionDetails = NOTHING_SAID


@dataclass(frozen=True)
class BuiltRecord:
    """A valid record and what goes with it."""

    xml: bytes
    activities: list[ActivityPaths]  # as in the record; relative to the data root and to the preview root


def build_record(
    session: SessionToBuild,
    *,
    data_root: Path,
    preview_root: Path,
    reader: FileReader,
    heartbeat: Callable[[], None] = lambda: None,
    finder: FileFinder | None = None,
    divide: Callable[[Sequence[DataFile]], list[list[DataFile]]] = group,
    check: Callable[[bytes], None] = validate,
) -> BuiltRecord | None:
    """The record of a session, its previews written below `preview_root`; None when no files fall into its window.

    `heartbeat` is called before every file, which takes at most twice the reader's time limit and the time to start it
    anew; what it raises ends the build.
    `finder` is given where many sessions are built; without it, all files below `data_root` count as they are now.
    `divide` makes activities of the files, and `check` raises `InvalidRecordError` for a record that is not valid.
    Raises `DataFolderError`, `FilesNotReadyError`, `ReaderStartError`, `InvalidRecordError`, and `OSError` when
    previews cannot be stored, or when the disk or share with the files does not answer.
    """
    finder = finder or FileFinder(data_root)
    files = finder.find(session.folder, session.start, session.end, clock_offset=session.clock_offset)
    if not files:
        return None
    activities = [_activity(group_, session.zone, preview_root, reader, heartbeat, finder) for group_ in divide(files)]
    start, end = (moment.astimezone(session.zone) for moment in (session.start, session.end))
    said = session.details
    xml = write_record(
        RecordContent(
            session_identifier=session.identifier,
            instrument_pid=session.instrument_pid,
            instrument_name=session.instrument_name,
            title=said.title or f"Experiment on the {session.instrument_name} on {start.date().isoformat()}",
            user=session.user,
            start=start,
            end=end,
            activities=tuple(activities),
            motivation=said.motivation,
            experimenters=said.experimenters,
            collaborators=said.collaborators,
            samples=said.samples,
            project=said.project,
            notes=said.notes,
        )
    )
    check(xml)
    return BuiltRecord(xml=xml, activities=[_paths(activity) for activity in activities])


def _activity(
    files: Sequence[DataFile],
    zone: tzinfo,
    preview_root: Path,
    reader: FileReader,
    heartbeat: Callable[[], None],
    finder: FileFinder,
) -> ActivityContent:
    datasets, previews = [], list[PurePosixPath | None]()
    for file in files:
        heartbeat()
        found = reader.read(file, zone=zone)
        finder.check_unchanged(file)
        for number, dataset in enumerate(found, start=1):
            previews.append(keep_preview(dataset.preview, file, preview_root, number if len(found) > 1 else None))
            datasets.append(replace(dataset, preview=None))  # of 10,000 files they would take gigabytes
    # The clock of the storage, as for the session's window: a camera's own clock may be hours off.
    return ActivityContent(files[0].mtime.astimezone(zone), tuple(datasets), tuple(previews))


def _paths(activity: ActivityContent) -> ActivityPaths:
    return activity_paths(
        (str(dataset.location), None if preview is None else str(preview))
        for dataset, preview in zip(activity.datasets, activity.previews, strict=True)
    )
