"""The folder of one session in the archive, which takes files in; filled by `manifest`."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_tasks.exporters.archive.store import ArchiveStore
from nexus_tasks.exporters.base import TransientError
from nexus_tasks.exporters.steps import fingerprint
from nexus_tasks.exporters.title import short_session_id

HASH_CHARACTERS = 16  # of the SHA-256 in a file name; the manifest has all of it
LONGEST_STEM = 60  # characters of a preview's own name in the archive's
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def folder_of(session_identifier: str) -> str:
    """The name of a session's folder: readable, safe for every file system, and of this session only."""
    return f"{short_session_id(session_identifier)}-{fingerprint(session_identifier)[:8]}"


@dataclass
class SessionFolder:
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
