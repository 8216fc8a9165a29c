"""Keeps record documents: immutable files named by their SHA-256, found in two places, checked when they are read."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nexus_tasks.exporters.base import TransientError
from nexus_tasks.plain_error import PlainError
from nexus_tasks.whole_file import flush_folder, write_whole

ARCHIVE_FOLDER = "uploaded"
DIGEST_CHARACTERS = 16  # of the SHA-256 in a file name; the row holds all of it


class DocumentError(TransientError):
    """The document of a record is gone, or is not what was built; nothing is sent until somebody puts it back."""


class StoreError(PlainError, OSError):
    """A document cannot be written; the message says where, why and what to do."""


def sha256_of(content: bytes) -> str:
    """The SHA-256 of a document, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def store(folder: Path, title: str, content: bytes) -> str:
    """Write a document and return its file name, which begins with `title` (safe as a file name); repeatable.

    It is complete or not there, after a power cut too. Raises `StoreError`.
    """
    return store_all(folder, [(title, content)])[0]


def store_all(folder: Path, documents: Sequence[tuple[str, bytes]]) -> list[str]:
    """As `store`, for several documents, (title, content); the folder is flushed once."""
    names = []
    for title, content in documents:
        name = f"{title}-{sha256_of(content)[:DIGEST_CHARACTERS]}.xml"
        with _told(folder, name):
            if not any(path.is_file() and path.read_bytes() == content for path in _places(folder, name)):
                write_whole(folder / name, content, flush=False)
        names.append(name)
    with _told(folder, names[0]):
        flush_folder(folder)
    return names


def locate(folder: Path, name: str, sha256: str) -> Path:
    """The path of a document, verified; raises `DocumentError` when it is gone or has changed since it was built."""
    problem = f"The record file {name} is neither in {folder} nor in its {ARCHIVE_FOLDER} folder: restore it."
    for path in _places(folder, name):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            problem = f"The record file {path} cannot be read ({error.strerror}): make it readable for the workers."
            continue
        if sha256_of(content) == sha256:
            return path
        problem = f"The record file {path} has changed since it was built (its SHA-256 differs): put the original back."
    raise DocumentError(problem)


def path_of(folder: Path, name: str) -> Path:
    """Where a document stands, unverified: in the archive if it is there, else where it was stored."""
    document, archived = _places(folder, name)
    return archived if archived.is_file() else document


def move_to_archive(folder: Path, name: str) -> bool:
    """Move a document to the archive folder; False when it is in neither place. Repeatable."""
    document, archived = _places(folder, name)
    archived.parent.mkdir(parents=True, exist_ok=True)
    try:
        document.rename(archived)
    except FileNotFoundError:
        return archived.is_file()
    return True


@contextmanager
def _told(folder: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The record file {name} cannot be written to {folder} ({error.strerror or error}): "
            "set NX_RECORDS_PATH or NX_DATA_PATH to a folder that may be written and has room."
        ) from error


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name, folder / ARCHIVE_FOLDER / name
