"""What a session's folder in the archive says of the session: its manifest; used by `export`."""

import json
from datetime import UTC, datetime
from typing import Any

from nexus_tasks import __version__
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.archive.session_folder import SessionFolder
from nexus_tasks.exporters.archive.store import ArchiveStore
from nexus_tasks.exporters.base import Activity, ExportContext, PermanentError
from nexus_tasks.exporters.record_file import read_record
from nexus_tasks.exporters.title import record_title

MANIFEST = "manifest.json"
FORMAT = "nexus-tasks archive 1"

_OF_THIS_WRITING = ("archived", "written_by")  # differ although nothing that is said of the session does
_OF_A_VERSION = ("archived", "record", "activities")

Manifest = dict[str, Any]


def wanted_manifest(context: ExportContext, session: SessionFolder, there: Manifest | None) -> Manifest:
    """What is to be said of a session, whose files are in its folder when this returns; `there` is what is said now."""
    record = session.keep(record_title(context), ".xml", read_record(context))
    said = there.get("activities") if there is not None and there.get("record") == record else None
    links = {
        name: {"id": result.record_id, "url": result.record_url}
        for name, result in sorted(context.previous_results.items())
        if result.success
    }
    wanted = {
        "format": FORMAT,
        "written_by": f"nexus-tasks {__version__}",
        "archived": datetime.now(UTC).isoformat(timespec="seconds"),
        "session": {
            "identifier": context.session_identifier,
            "instrument": context.instrument_pid,
            "user": context.user,
            "start": context.dt_from.isoformat(),
            "end": context.dt_to.isoformat(),
        },
        "links": links,
        "record": record,
        "activities": [
            _activity(activity, session, _at(said, number)) for number, activity in enumerate(context.activities)
        ],
        "earlier": [],
    }
    return wanted if there is None else _following(there, wanted)


def _activity(activity: Activity, session: SessionFolder, said: Any) -> dict[str, Any]:
    """What is to be said of an activity; `said` is what the manifest there says of the same one, if anything."""
    root = get_settings().NX_INSTRUMENT_DATA_PATH
    shown = [file.relative_to(root) if root and file.is_relative_to(root) else file for file in activity.files]
    files = [file.as_posix() for file in shown]
    named = said.get("previews") if isinstance(said, dict) and said.get("files") == files else None
    return {
        "files": files,  # not copied: they stay where the instrument put them
        "previews": [
            session.keep_preview(preview, _at(named, number)) for number, preview in enumerate(activity.previews)
        ],
    }


def _at(values: Any, number: int) -> Any:
    """One of the values of a list in a manifest, which people may have changed; None without it."""
    return values[number] if isinstance(values, list) and number < len(values) else None


def manifest_there(store: ArchiveStore, name: str, context: ExportContext) -> Manifest | None:
    """The manifest that we have written for this session, None without one; somebody else's is not touched."""
    content = store.read(name)
    if content is None:
        return None
    try:
        manifest = json.loads(content)
    except ValueError:
        manifest = None
    if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
        session = manifest.get("session")
        if isinstance(session, dict) and session.get("identifier") == context.session_identifier:
            return manifest
    raise PermanentError(
        f"In the archive, {name} is not the manifest that was written there for this session: move it away, and retry."
    )


def _following(there: Manifest, wanted: Manifest) -> Manifest:
    """`wanted` with what the manifest there knows besides: earlier versions, and what people have added to it."""
    earlier = there.get("earlier")
    earlier = list(earlier) if isinstance(earlier, list) else []
    if there.get("record") != wanted["record"]:
        earlier.append({part: there.get(part) for part in _OF_A_VERSION})
    return {**there, **wanted, "earlier": earlier}


def said_of_the_session(manifest: Manifest) -> Manifest:
    """A manifest without what differs from one writing to the next."""
    return {part: value for part, value in manifest.items() if part not in _OF_THIS_WRITING}


def as_json(manifest: Manifest) -> bytes:
    """A manifest as its file holds it."""
    try:
        return (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8 has half characters, which JSON can escape
        return (json.dumps(manifest, indent=2) + "\n").encode("ascii")
