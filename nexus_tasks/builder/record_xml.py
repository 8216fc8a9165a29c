"""The XML of a record: written from what the builder found, and read back from records of any NexusLIMS builder.

`record.build_record` writes; `read_activities` serves whoever takes in records made elsewhere. Nothing
here touches files, and the same content always gives the same bytes.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from lxml import etree

from nexus_tasks.builder.readers.base import ACQUISITION_TIME, Dataset, Fact
from nexus_tasks.builder.readers.basic import FILE_SIZE, MODIFICATION_TIME
from nexus_tasks.builder.schema import NAMESPACE, parse_record
from nexus_tasks.builder.session_details import Project, Sample

# What is stored with a record and handed to the delivery: {"files": [...], "previews": [... or None]}, pairwise.
ActivityPaths = dict[str, Any]

# Facts of one dataset, not of the instrument: never part of an activity's setup, even where all agree by chance.
_NEVER_SETUP = {FILE_SIZE, MODIFICATION_TIME, ACQUISITION_TIME}

# Notes hold entries of several kinds, told apart by this attribute.
_XSI = "http://www.w3.org/2001/XMLSchema-instance"

# Everything that XML 1.0 has no character for, lone surrogates (undecodable file names) included.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class ActivityContent:
    """One acquisition activity: its datasets and, pairwise, where their previews lie (None where there is none)."""

    start: datetime  # with time zone
    datasets: tuple[Dataset, ...]
    previews: tuple[PurePosixPath | None, ...]


@dataclass(frozen=True)
class RecordContent:
    """Everything that a record says; times carry their zone."""

    session_identifier: str
    instrument_pid: str
    instrument_name: str
    title: str
    user: str | None
    start: datetime
    end: datetime
    activities: tuple[ActivityContent, ...]
    motivation: str | None = None
    experimenters: tuple[str, ...] = ()  # the user where there are none
    collaborators: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    project: Project | None = None
    notes: str | None = None


def activity_paths(pairs: Iterable[tuple[str, str | None]]) -> ActivityPaths:
    """The files of one activity, each with its preview, as relative POSIX paths."""
    files_and_previews = list(pairs)
    return {
        "files": [file for file, _ in files_and_previews],
        "previews": [preview for _, preview in files_and_previews],
    }


def write_record(record: RecordContent) -> bytes:
    """The record as a UTF-8 document; raises `ValueError` for a time without zone, which the schema would let pass."""
    namespaces: Any = {None: NAMESPACE}  # the default namespace, which the stubs do not know
    root = etree.Element(_name("Experiment"), nsmap=namespaces)
    _add(root, "title", record.title)
    _add(root, "id", record.session_identifier)
    summary = _add(root, "summary")
    for name in record.experimenters or filter(None, [record.user]):
        _add(summary, "experimenter", name)
    for name in record.collaborators:
        _add(summary, "collaborator", name)
    _add(summary, "instrument", record.instrument_name, pid=record.instrument_pid)
    _add(summary, "reservationStart", _moment(record.start))
    _add(summary, "reservationEnd", _moment(record.end))
    if record.motivation:
        _add(summary, "motivation", record.motivation)
    for sample in record.samples:
        _add_sample(root, sample)
    if record.project is not None:
        _add_project(root, record.project)
    for number, activity in enumerate(record.activities):
        _add_activity(root, number, activity)
    if record.notes:
        _add_notes(root, record.notes)
    etree.indent(root)
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True) + b"\n"


def common_facts(datasets: Sequence[Dataset]) -> tuple[Fact, ...]:
    """The facts that all datasets share, in the order of the first: the setup of their activity."""
    if not datasets:
        return ()
    counts = Counter(fact for dataset in datasets for fact in set(dataset.facts))
    return tuple(fact for fact in datasets[0].facts if counts[fact] == len(datasets) and fact.name not in _NEVER_SETUP)


def quoted(location: PurePosixPath) -> str:
    """A relative path as records hold it: percent-quoted byte for byte, so that any file name survives."""
    return quote(os.fsencode(str(location)), safe="/")


def unquoted(text: str) -> str:
    """The relative path that a record's `location` or `preview` means; a leading slash stands for the data root."""
    return os.fsdecode(unquote_to_bytes(text.strip())).lstrip("/")


def read_activities(xml: bytes) -> list[ActivityPaths]:
    """The files of any NexusLIMS record by activity, each with the first of its previews; raises `InvalidRecordError`.

    Paths that lead out of the data root, and web addresses, are left out: they name nothing that could be sent along.
    """
    return [
        activity_paths(
            (location, _path(dataset.findtext(_name("preview"))))
            for dataset in activity.iterfind(_name("dataset"))
            if (location := _path(dataset.findtext(_name("location")))) is not None
        )
        for activity in parse_record(xml).iterfind(_name("acquisitionActivity"))
    ]


def _add_sample(root: etree._Element, sample: Sample) -> None:
    element = _add(root, "sample", **({} if sample.id is None else {"id": sample.id}))
    if sample.name is not None:
        _add(element, "name", sample.name)
    for paragraph in _paragraphs(sample.description):
        _add(element, "description", paragraph)


def _add_project(root: etree._Element, project: Project) -> None:
    element = _add(root, "project")
    parts = {"name": project.name, "division": project.division, "group": project.group, "project_id": project.id}
    for tag, text in parts.items():
        if text is not None:
            _add(element, tag, text)


def _add_notes(root: etree._Element, notes: str) -> None:
    namespaces: Any = {"xsi": _XSI}
    element = etree.SubElement(root, _name("notes"), {"source": "session"}, nsmap=namespaces)
    entry = _add(element, "entry", **{f"{{{_XSI}}}type": "TextEntry"})
    for paragraph in _paragraphs(notes):
        _add(entry, "p", paragraph)


def _paragraphs(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _add_activity(root: etree._Element, number: int, activity: ActivityContent) -> None:
    element = _add(root, "acquisitionActivity", seqno=str(number))
    _add(element, "startTime", _moment(activity.start))
    setup = common_facts(activity.datasets)
    if setup:
        params = _add(element, "setup")
        for fact in setup:
            _add_fact(params, "param", fact)
    for dataset, preview in zip(activity.datasets, activity.previews, strict=True):
        _add_dataset(element, dataset, preview, setup)


def _add_dataset(
    activity: etree._Element, dataset: Dataset, preview: PurePosixPath | None, setup: tuple[Fact, ...]
) -> None:
    element = _add(activity, "dataset", type=dataset.type, role="Experimental")
    _add(element, "name", dataset.name)
    _add(element, "location", quoted(dataset.location))
    _add(element, "format", dataset.format)
    if dataset.problem:
        _add(element, "description", f"Not read in full: {dataset.problem}")
    if preview is not None:
        _add(element, "preview", quoted(preview))
    for fact in dataset.facts:
        if fact not in setup:
            _add_fact(element, "meta", fact)


def _add_fact(parent: etree._Element, tag: str, fact: Fact) -> None:
    unit = {} if fact.unit is None else {"unit": fact.unit}
    _add(parent, tag, fact.value, name=fact.name, **unit)


def _add(parent: etree._Element, tag: str, text: str | None = None, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, _name(tag), {name: _printable(value) for name, value in attributes.items()})
    if text is not None:
        element.text = _printable(text)
    return element


def _name(tag: str) -> str:
    return f"{{{NAMESPACE}}}{tag}"


def _printable(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _moment(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone: a record must not leave open when something happened.")
    return moment.isoformat(timespec="seconds")


def _path(text: str | None) -> str | None:
    """The relative path in a record's text, or None for what is none."""
    if not text or not text.strip() or urlsplit(text.strip()).scheme in {"http", "https", "file"}:
        return None
    path = PurePosixPath(unquoted(text))
    return None if ".." in path.parts or "\0" in str(path) or not path.parts else str(path)
