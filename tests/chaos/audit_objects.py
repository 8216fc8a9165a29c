"""Judges what the services hold at the end: one object for each record, with the right contents; pure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from nexus_tasks.builder.schema import NAMESPACE, InvalidRecordError, parse_record
from tests.chaos.findings import Finding, Kind
from tests.chaos.records import Expected

NORMAL = 1  # the state of an experiment or upload in eLabFTW that is neither archived nor deleted
EXPERIMENT_TITLE = "NexusLIMS Experiment - "

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Objects:
    """What the stand-ins say they hold, with contents, and the files of the harness's own plugin."""

    cdcs: Sequence[Json] = ()
    elabftw: Sequence[Json] = ()
    labarchives: Sequence[Json] = ()
    copies: Mapping[str, bytes] = field(default_factory=dict)


def audit_objects(
    expected: Sequence[Expected], objects: Objects, adopted: Mapping[tuple[str, str], str | None]
) -> Iterator[Finding]:
    """All services; `adopted` is the object that a delivery names, by session and destination."""
    yield from _cdcs(expected, objects.cdcs)
    yield from _elabftw(expected, objects, adopted)
    yield from _labarchives(expected, objects, adopted)
    for record in expected:
        if "copies" in record.destinations - record.doomed:
            yield from _copy(record, objects.copies)


# --- CDCS


def _cdcs(expected: Sequence[Expected], found: Sequence[Json]) -> Iterator[Finding]:
    by_session = cdcs_records(expected, found)
    yield from _doubles("cdcs", "records", by_session, expected)
    for record in expected:
        mine = by_session.get(record.session, [])
        if not mine:
            yield Finding(Kind.LOST, record.session, "cdcs", "there is no record")
            continue
        if mine[0]["title"] != record.title:
            yield Finding(Kind.LOST, record.session, "cdcs", f"record {mine[0]['id']} is titled {mine[0]['title']!r}")
        if mine[0]["workspace"] is None:
            yield Finding(Kind.LOST, record.session, "cdcs", f"record {mine[0]['id']} is in no workspace")
        for each in mine:
            if _digest(each["xml_content"]) != record.sha256:
                what = f"the XML of record {each['id']} is not what was built"
                yield Finding(Kind.WRONG_ATTACHMENTS, record.session, "cdcs", what)


def cdcs_records(expected: Sequence[Expected], found: Sequence[Json]) -> dict[str, list[Json]]:
    """Records by the session that their XML names, or by title where it names none."""
    titles = {record.title: record.session for record in expected}
    by_session: dict[str, list[Json]] = defaultdict(list)
    for each in found:
        session = _session_in(each["xml_content"]) or titles.get(each["title"])
        by_session[session or str(each["title"])].append(each)
    return by_session


def _session_in(xml: str) -> str | None:
    try:
        return parse_record(xml.encode()).findtext(f"{{{NAMESPACE}}}id")
    except InvalidRecordError:
        return None


# --- eLabFTW


def _elabftw(
    expected: Sequence[Expected], objects: Objects, adopted: Mapping[tuple[str, str], str | None]
) -> Iterator[Finding]:
    by_session: dict[str, list[Json]] = defaultdict(list)
    for each in objects.elabftw:
        if each["state"] == NORMAL:
            by_session[_experiment_session(each)].append(each)
    yield from _doubles("elabftw", "experiments", by_session, expected)
    in_cdcs = cdcs_records(expected, objects.cdcs)
    for record in expected:
        mine = by_session.get(record.session, [])
        if not mine:
            yield Finding(Kind.LOST, record.session, "elabftw", "there is no experiment")
            continue
        experiment = _the_one(mine, adopted.get((record.session, "elabftw")))
        if not _links(experiment["body"], in_cdcs.get(record.session, [])):
            what = f"experiment {experiment['id']} has no link to CDCS"
            yield Finding(Kind.LOST, record.session, "elabftw", what)
        attached = [
            (upload["real_name"], upload["filesize"], upload["sha256"])
            for upload in experiment["uploads"]
            if upload["state"] == NORMAL
        ]
        yield from _attachments(record, "elabftw", attached)


def _experiment_session(experiment: Json) -> str:
    fields = (experiment["metadata"] or {}).get("extra_fields", {})
    value = fields.get("Session ID", {}).get("value")
    return str(value or str(experiment["title"]).removeprefix(EXPERIMENT_TITLE))


# --- LabArchives


def _labarchives(
    expected: Sequence[Expected], objects: Objects, adopted: Mapping[tuple[str, str], str | None]
) -> Iterator[Finding]:
    pages: dict[str, list[Json]] = defaultdict(list)
    entries: dict[str | None, list[Json]] = defaultdict(list)
    folders: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for each in objects.labarchives:
        if each["kind"] == "page":
            pages[each["path"]].append(each)
        elif each["kind"] == "folder":
            folders[each["parent"], each["name"]].append(each)
        else:
            entries[each["page"]].append(each)
    for (_, name), same in folders.items():
        for folder in same[1:]:
            what = f"folder {name!r} is there {len(same)} times in one place ({folder['id']})"
            yield Finding(Kind.DOUBLED, None, "labarchives", what)
    paths = {record.page_path: record.session for record in expected}
    by_session = {paths.get(path, path): same for path, same in pages.items()}
    yield from _doubles("labarchives", "pages", by_session, expected)
    for entry in entries.get(None, []):
        yield Finding(Kind.DOUBLED, None, "labarchives", f"entry {entry['id']} lies in the Inbox")
    in_cdcs = cdcs_records(expected, objects.cdcs)
    for record in expected:
        mine = by_session.get(record.session, [])
        if not mine:
            yield Finding(Kind.LOST, record.session, "labarchives", f"there is no page {record.page_path!r}")
            continue
        page = _the_one(mine, adopted.get((record.session, "labarchives")))
        yield from _page(record, entries[page["id"]], in_cdcs.get(record.session, []))


def _page(record: Expected, entries: Sequence[Json], in_cdcs: Sequence[Json]) -> Iterator[Finding]:
    summaries = [entry for entry in entries if entry["filename"] is None]
    attached = [(entry["filename"], entry["size"], entry["sha256"]) for entry in entries if entry["filename"]]
    if not summaries:
        yield Finding(Kind.LOST, record.session, "labarchives", "the page has no summary")
    elif not any(_links(entry["entry_data"], in_cdcs) for entry in summaries):
        yield Finding(Kind.LOST, record.session, "labarchives", "the page has no link to CDCS")
    for kind, here in (("summaries", summaries), ("attachments", attached)):
        for _ in here[1:]:
            yield Finding(Kind.DOUBLED, record.session, "labarchives", f"{len(here)} {kind} on one page")
    yield from _attachments(record, "labarchives", attached)


# --- all of them


def _copy(record: Expected, copies: Mapping[str, bytes]) -> Iterator[Finding]:
    content = copies.get(record.attachment)
    if content is None:
        yield Finding(Kind.LOST, record.session, "copies", "there is no copy")
    elif sha256(content).hexdigest() != record.sha256:
        yield Finding(Kind.WRONG_ATTACHMENTS, record.session, "copies", "the copy is not what was built")


def _doubles(
    destination: str, kind: str, by_session: Mapping[str, Sequence[Json]], expected: Sequence[Expected]
) -> Iterator[Finding]:
    known = {record.session for record in expected}
    for session, same in by_session.items():
        if session not in known:
            yield Finding(Kind.DOUBLED, None, destination, f"{len(same)} {kind} of no record: {session}")
        ids = ", ".join(str(each["id"]) for each in same)
        for _ in same[1:]:
            yield Finding(Kind.DOUBLED, session, destination, f"{len(same)} {kind}: {ids}")


def _attachments(record: Expected, destination: str, attached: Iterable[tuple[str, int, str]]) -> Iterator[Finding]:
    documents = [file for file in attached if file[0].endswith(".xml")]
    if not documents:
        yield Finding(Kind.WRONG_ATTACHMENTS, record.session, destination, "the XML is not attached")
    for position, (name, size, digest) in enumerate(documents):
        if size == 0:
            what = f"{name} is empty"
        elif digest != record.sha256:
            what = f"{name} is not what was built"
        elif position > 0:
            what = f"{name} is attached {len(documents)} times"
        elif name != record.attachment:
            what = f"{name} should be named {record.attachment}"
        else:
            continue
        yield Finding(Kind.WRONG_ATTACHMENTS, record.session, destination, what)


def _the_one(same: Sequence[Json], adopted: str | None) -> Json:
    """The object that the delivery names, or else the oldest."""
    return next((each for each in same if str(each["id"]) == adopted), same[0])


def _links(text: str, in_cdcs: Sequence[Json]) -> bool:
    return any(re.search(rf"/data\?id={each['id']}(?!\d)", text) for each in in_cdcs)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
