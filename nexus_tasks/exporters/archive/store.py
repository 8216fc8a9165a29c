"""`ArchiveStore`: what keeps the archive's files, opened as the settings name it; used by `export`.

There are two kinds, chosen by the address: a `folder` and an `object_store`.
"""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.archive.folder import Folder
from nexus_tasks.exporters.base import Check, ConfigurationError
from nexus_tasks.exporters.required_settings import value_of

INSTALL = 'pip install "nexus-tasks[archive]"'

_SCHEMES = {"file": (), "memory": ("fsspec",), "s3": ("fsspec", "s3fs")}  # and the modules that they need
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")


class ArchiveStore(Protocol):
    """Files by name, in folders one deep: `{folder}/{file}`. Every method but `address_of` asks the store."""

    def sizes(self, folder: str) -> dict[str, int]:
        """The files of a folder with their sizes in bytes; empty when there is no such folder."""
        ...

    def read(self, name: str) -> bytes | None:
        """What a file holds, or None without that file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Have a file hold `content`: nobody ever sees half of it."""
        ...

    def address_of(self, name: str) -> str | None:
        """Where a person opens a file, or None where nobody can."""
        ...

    def checks(self) -> list[Check]:
        """What can be told of the store without writing to it."""
        ...


def check_settings() -> tuple[bool, str | None]:
    """Whether `NX_ARCHIVE_URL` and `NX_ARCHIVE_OPTIONS` can be meant so: (True, None), or (False, what to mend)."""
    problem = _problem_of_address(get_settings().NX_ARCHIVE_URL or "")
    if problem is None:
        try:
            _options()
        except ConfigurationError as error:
            problem = str(error)
    return problem is None, problem


def open_store(take_turn: Callable[[], None], was_used: Callable[[], bool]) -> ArchiveStore:
    """The store that the settings name, for one export; `take_turn` is called before each call to it.

    `was_used` tells whether a record was ever archived there: a folder that is empty nevertheless is not written to.
    Raises `ConfigurationError` for settings that cannot be meant so. Nothing is asked of the store yet.
    """
    url = value_of("NX_ARCHIVE_URL")
    problem = _problem_of_address(url)
    if problem is not None:
        raise ConfigurationError(problem)
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Folder(Path(unquote(parts.path)), take_turn, was_used)
    from nexus_tasks.exporters.archive.object_store import ObjectStore  # a folder, or a look at settings, needs no HTTP

    return ObjectStore(parts.scheme, f"{parts.netloc}{parts.path}".rstrip("/"), _options(), take_turn)


def _problem_of_address(url: str) -> str | None:
    """What is wrong with an address, without repeating any of it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "NX_ARCHIVE_URL is not an address: write file:///folder or s3://bucket/folder."
    folder, missing = unquote(parts.path), [m for m in _SCHEMES.get(parts.scheme, ()) if not is_installed(m)]
    rules = (
        (
            parts.scheme not in _SCHEMES,
            "NX_ARCHIVE_URL must begin with file:/// (a folder) or s3:// (an object store).",
        ),
        (
            "?" in url or "#" in url,
            "NX_ARCHIVE_URL must not hold ? or #; in the name of a folder write them as %3F and %23.",
        ),
        (
            parts.scheme == "file" and (parts.netloc or "\0" in folder or not folder.strip("/")),
            "NX_ARCHIVE_URL must name a folder of this machine with three slashes: file:///folder.",
        ),
        (
            parts.scheme == "s3" and not _BUCKET.fullmatch(parts.netloc),
            "NX_ARCHIVE_URL must name a bucket: s3://bucket/folder.",
        ),
        (
            missing,
            f"The archive needs {' and '.join(missing)} for {parts.scheme}:// addresses: {INSTALL}",
        ),
    )
    return next((problem for wrong, problem in rules if wrong), None)


def _options() -> dict[str, Any]:
    """What `NX_ARCHIVE_OPTIONS` says."""
    text = get_settings().NX_ARCHIVE_OPTIONS
    try:
        options = json.loads(text.get_secret_value()) if text is not None else {}
    except ValueError:
        options = None  # the error would repeat what it could not read
    if not isinstance(options, dict):
        raise ConfigurationError('NX_ARCHIVE_OPTIONS must be a JSON object: {"key": "…", "secret": "…"}.')
    return options


def is_installed(module: str) -> bool:
    """Whether a module of an extra can be imported."""
    return find_spec(module) is not None
