"""Keeps a copy of each record in a folder or object store, with its previews and a manifest; called by workers.

Below `NX_ARCHIVE_URL` every session has a folder, named by its identifier, for the record, the previews and
`manifest.json`. A file's name ends with the hash of what it holds, so nothing is written twice and older versions of a
record stay. The manifest is written last: whoever sees it sees everything that it names. It carries the links of the
other destinations, which therefore go first.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nexus_tasks import __version__
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.archive_store import ArchiveStore, check_settings, open_store
from nexus_tasks.exporters.base import Activity, Check, ExportContext, ExportResult, PermanentError, TransientError
from nexus_tasks.exporters.gone import GoneError, advice_to_recreate
from nexus_tasks.exporters.record_file import read_record
from nexus_tasks.exporters.required_settings import all_set, check_set, value_of
from nexus_tasks.exporters.steps import Done, fingerprint
from nexus_tasks.exporters.title import record_title, short_session_id

MANIFEST = "manifest.json"
FORMAT = "nexus-tasks archive 1"
HASH_CHARACTERS = 16  # of the SHA-256 in a file name; the manifest has all of it
LONGEST_STEM = 60  # characters of a preview's own name in the archive's

_OF_THIS_WRITING = ("archived", "written_by")  # differ although nothing that is said of the session does
_OF_A_VERSION = ("archived", "record", "activities")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Manifest = dict[str, Any]


class ArchiveDestination:
    """The archive, as `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "archive"
    priority = 10  # last of those that ship
    depends_on = ("cdcs", "elabftw", "labarchives")
    updates = True

    @property
    def enabled(self) -> bool:
        """Whether its address is set."""
        return all_set("NX_ARCHIVE_URL")

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        valid, problem = check_set("The archive", "NX_ARCHIVE_URL")
        return check_settings() if valid else (valid, problem)

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return open_store(lambda: None, lambda: False).checks()

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        with advice_to_recreate(context, self.name):
            return self._export(context)

    def _export(self, context: ExportContext) -> ExportResult:
        folder = folder_of(context.session_identifier)
        place = f"below {value_of('NX_ARCHIVE_URL')}"
        step, used = f"manifest {place}", f"records {place}"  # elsewhere a record is archived anew

        def was_used() -> bool:
            return context.checkpoint.get(step) is not None or context.shared.get(used) is not None

        store, manifest_name = open_store(context.take_turn, was_used), f"{folder}/{MANIFEST}"
        sizes = store.sizes(folder)
        there = _manifest_there(store, manifest_name, context) if MANIFEST in sizes else None
        if there is None and context.checkpoint.get(step) is not None:
            raise GoneError(f"The archive's folder {folder} has no manifest any more: somebody has taken it away.")
        session = _SessionFolder(store, folder, sizes)
        wanted = _manifest(context, session, there)
        if there is not None:
            wanted = _following(there, wanted)
        done: Done = "unchanged"
        if there is None or _said_of_the_session(there) != _said_of_the_session(wanted):
            store.write(manifest_name, _as_json(wanted))
            done = "created" if there is None else "updated"
        elif session.written:
            done = "updated"
        # Nothing is asked here. It stands for "this was there once": what is taken away later is not put back unasked.
        context.checkpoint.create(step, lambda: folder, find=lambda: folder)
        context.shared.create(used, lambda: place, find=lambda: place)
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=folder,
            record_url=store.address_of(manifest_name),
            metadata={"done": done, "written": session.written, "missing_previews": session.missing},
        )


def folder_of(session_identifier: str) -> str:
    """The name of a session's folder: readable, safe for every file system, and of this session only."""
    return f"{short_session_id(session_identifier)}-{fingerprint(session_identifier)[:8]}"


@dataclass
class _SessionFolder:
    """The folder of one session: takes files in, unless they are there already."""

    store: ArchiveStore
    folder: str
    sizes: dict[str, int]  # of what is there
    written: int = 0  # files
    missing: list[str] = field(default_factory=list)  # previews that are not on disk any more

    def keep(self, stem: str, suffix: str, content: bytes) -> dict[str, Any]:
        """What the manifest says of a file that is in the folder now."""
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"{stem}-{sha256[:HASH_CHARACTERS]}{suffix}"
        if self.sizes.get(name) != len(content):
            self.store.write(f"{self.folder}/{name}", content)
            self.sizes[name] = len(content)
            self.written += 1
        return {"name": name, "sha256": sha256, "size": len(content)}

    def keep_preview(self, preview: Path | None, named: Any) -> dict[str, Any] | None:
        """As `keep`; None for a preview that there is not.

        `named` is what the manifest there says of it, if anything: it goes on saying so while the picture is in the
        folder, although it may be gone from the disk that it came from.
        """
        if preview is None:
            return None
        try:
            content = preview.read_bytes()
        except FileNotFoundError:
            self.missing.append(preview.name)
            return named if self._holds(named) else None
        except OSError as error:
            reason = error.strerror or type(error).__name__
        else:
            stem = _UNSAFE.sub("-", preview.stem).strip("-.")[:LONGEST_STEM]
            return self.keep(stem or "preview", _UNSAFE.sub("", preview.suffix.lower()), content)
        raise TransientError(f"The preview {preview} cannot be read ({reason}): make it readable for the workers.")

    def _holds(self, named: Any) -> bool:
        return isinstance(named, dict) and self.sizes.get(str(named.get("name")), -1) == named.get("size")


def _manifest(context: ExportContext, session: _SessionFolder, there: Manifest | None) -> Manifest:
    """What is to be said of a session, whose files are in its folder when this returns; `there` is what is said now."""
    record = session.keep(record_title(context), ".xml", read_record(context))
    said = there.get("activities") if there is not None and there.get("record") == record else None
    links = {
        name: {"id": result.record_id, "url": result.record_url}
        for name, result in sorted(context.previous_results.items())
        if result.success
    }
    return {
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


def _activity(activity: Activity, session: _SessionFolder, said: Any) -> dict[str, Any]:
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


def _manifest_there(store: ArchiveStore, name: str, context: ExportContext) -> Manifest | None:
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


def _said_of_the_session(manifest: Manifest) -> Manifest:
    return {part: value for part, value in manifest.items() if part not in _OF_THIS_WRITING}


def _as_json(manifest: Manifest) -> bytes:
    try:
        return (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8 has half characters, which JSON can escape
        return (json.dumps(manifest, indent=2) + "\n").encode("ascii")
