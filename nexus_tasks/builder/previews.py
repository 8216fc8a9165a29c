"""Where previews lie and how they get there; called by `record.build_record`.

The preview of a file has the file's own location, below the preview root instead of the data root.
"""

import errno
import logging
from pathlib import Path, PurePosixPath
from uuid import uuid4

from nexus_tasks.builder.files import DataFile

logger = logging.getLogger(__name__)


def preview_location(location: PurePosixPath, number: int | None = None) -> PurePosixPath:
    """The preview of the file at `location`; `number` counts from 1 where one file holds several datasets."""
    counted = "" if number is None else f".{number}"
    return location.with_name(f"{location.name}{counted}.thumb.png")


def keep_preview(
    picture: bytes | None, file: DataFile, preview_root: Path, number: int | None = None
) -> PurePosixPath | None:
    """The location of the preview of `file`, written if it is not there yet; None when there is no picture.

    One that is newer than its file is left as it is, so that building again changes nothing that is already linked. A
    new one appears whole or not at all. Raises `OSError` when the storage does not take it.
    """
    location = preview_location(file.location, number)
    target = preview_root / location
    try:
        if target.stat().st_mtime > file.mtime.timestamp():
            return location
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            logger.warning("The name of %s leaves no room for that of a preview; it gets none", file.path)
            return None
        raise
    if picture is None:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{uuid4().hex}.tmp")
    try:
        unfinished.write_bytes(picture)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return location
