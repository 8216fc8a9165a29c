"""Takes over the preview pictures of a record that another builder made; called by `enqueue`."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nexus_tasks.builder.record_xml import ActivityPaths

FOLDER = "enqueued"  # under the previews path


class PreviewError(Exception):
    """A preview picture cannot be read."""


def with_previews(
    activities: Sequence[ActivityPaths], pictures: Sequence[Path], preview_root: Path, session_identifier: str
) -> list[ActivityPaths]:
    """Copy `pictures` below `preview_root` and put each beside the file that it shows.

    A picture belongs to the dataset whose preview has its name in the record; what belongs to none becomes an activity
    of its own, under its own name. Previews that the record names and nobody handed over are left out.

    Raises `PreviewError`.
    """
    folder = f"{FOLDER}/{hashlib.sha256(session_identifier.encode()).hexdigest()[:16]}"
    copied = {picture.name: _copy(picture, preview_root, folder) for picture in pictures}
    shown: set[str] = set()
    result: list[ActivityPaths] = []
    for activity in activities:
        previews: list[str | None] = []
        for preview in activity["previews"]:
            name = PurePosixPath(preview).name if preview else ""
            previews.append(copied.get(name))
            shown.add(name)
        result.append({"files": list(activity["files"]), "previews": previews})
    loose = [name for name in copied if name not in shown]
    if loose:
        result.append({"files": list(loose), "previews": [copied[name] for name in loose]})
    return result


def _copy(picture: Path, preview_root: Path, folder: str) -> str:
    target = preview_root / folder / picture.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target)
    except OSError as error:
        raise PreviewError(f"The preview {picture} cannot be copied: {error.strerror}.") from error
    return f"{folder}/{picture.name}"
