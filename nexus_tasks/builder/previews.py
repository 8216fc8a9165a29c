"""Where previews lie and how they get there; called by `record.build_record`.

The preview of a file has the file's own location, below the preview root instead of the data root. Inside it stands of
which state of the file it was made (size and modification time), so that one is made anew when the file changed and
only then, whichever of the two is newer.
"""

import errno
import logging
import struct
import zlib
from datetime import UTC
from pathlib import Path, PurePosixPath

from nexus_tasks.builder.files import DataFile
from nexus_tasks.whole_file import write_whole

logger = logging.getLogger(__name__)

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = len(_SIGNATURE) + 25  # the first chunk, IHDR, is 13 bytes and its frame
_KEYWORD = b"Source"  # of the text chunk, one of those that PNG names itself
_LONGEST_NOTE = 200  # bytes; a size and a time are far fewer


def preview_location(location: PurePosixPath, number: int | None = None) -> PurePosixPath:
    """The preview of the file at `location`; `number` counts from 1 where one file holds several datasets."""
    counted = "" if number is None else f".{number}"
    return location.with_name(f"{location.name}{counted}.thumb.png")


def keep_preview(
    picture: bytes | None, file: DataFile, preview_root: Path, number: int | None = None
) -> PurePosixPath | None:
    """The location of the preview of `file`, written if it is not there yet; None when there is no picture.

    One that was made of the file as it is now is left as it is, so that building again changes nothing that is already
    linked. A new one appears whole or not at all. Raises `OSError` when the storage does not take it.
    """
    location = preview_location(file.location, number)
    target = preview_root / location
    try:
        if _shows(target, file):
            return location
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            logger.warning("The name of %s leaves no room for that of a preview; it gets none", file.path)
            return None
        raise
    if picture is None:
        return None
    write_whole(target, _noted(picture, file))
    return location


def _state(file: DataFile) -> bytes:
    """What tells one state of a file from another, without reading it."""
    mtime = file.mtime.astimezone(UTC).isoformat(timespec="microseconds")
    return f"{file.size} bytes, modified {mtime}".encode("ascii")


def _noted(picture: bytes, file: DataFile) -> bytes:
    """The picture with a text chunk that says of which state of the file it is; what is no PNG stays as it is."""
    if not picture.startswith(_SIGNATURE):
        return picture
    note = b"tEXt" + _KEYWORD + b"\0" + _state(file)
    chunk = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    return picture[:_HEADER_END] + chunk + picture[_HEADER_END:]


def _shows(target: Path, file: DataFile) -> bool:
    """Whether the preview at `target` is there and was made of this state of the file."""
    try:
        with target.open("rb") as stream:
            start = stream.read(_HEADER_END + _LONGEST_NOTE)
    except FileNotFoundError:
        return False
    return start.startswith(_SIGNATURE) and start[_HEADER_END + 4 :].startswith(
        b"tEXt" + _KEYWORD + b"\0" + _state(file)
    )
