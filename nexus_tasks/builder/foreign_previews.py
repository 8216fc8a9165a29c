"""Takes over the preview pictures of a record that another builder made; called by `enqueue` and for NexusLIMS."""

import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from nexus_tasks.builder.record_xml import ActivityPaths
from nexus_tasks.plain_error import PlainError
from nexus_tasks.whole_file import write_whole

FOLDER = "enqueued"  # under the previews path

logger = logging.getLogger(__name__)

AnyPath = TypeVar("AnyPath", bound=PurePath)


class PreviewError(PlainError):
    """A preview picture cannot be read."""


def with_previews(
    activities: Sequence[ActivityPaths], pictures: Sequence[Path], preview_root: Path, session_identifier: str
) -> list[ActivityPaths]:
    """Copy `pictures` below `preview_root` and put each beside the file that it shows.

    A picture belongs to the dataset whose preview has its name in the record and, of several, most of the folders above
    it; where that leaves a choice, to none, which is logged. What belongs to none becomes an activity of its own, under
    its own name. Previews that the record names and nobody handed over are left out.

    Raises `PreviewError`.
    """
    folder = folder_of(session_identifier)
    pictures = list(dict.fromkeys(Path(os.path.abspath(picture)) for picture in pictures))  # noqa: PTH100 keeps links
    named = {PurePosixPath(preview) for activity in activities for preview in activity["previews"] if preview}
    matched = match(named, pictures)
    copies = {preview: copy(picture, preview_root, f"{folder}/{preview}") for preview, picture in matched.items()}
    result: list[ActivityPaths] = []
    for activity in activities:
        previews = [copies.get(PurePosixPath(preview)) if preview else None for preview in activity["previews"]]
        result.append({"files": list(activity["files"]), "previews": previews})
    own_names = _told_apart(pictures)
    loose = [picture for picture in pictures if picture not in matched.values()]
    if loose:
        files = [own_names[picture] for picture in loose]
        copied = [copy(picture, preview_root, f"{folder}/{name}") for picture, name in zip(loose, files, strict=True)]
        result.append({"files": files, "previews": copied})
    names = {preview.name for preview in named}
    for picture in loose:
        if picture.name in names:
            logger.warning(
                "Session %s: which of the record's previews %s is cannot be told, so it stands by itself: "
                "hand it over from folders that are named as in the record",
                session_identifier,
                picture,
            )
    return result


def match(previews: Collection[PurePosixPath], pictures: Collection[Path]) -> dict[PurePosixPath, Path]:
    """Which picture each preview is: the one that has most in common with it, and with no other preview as much."""
    closest = {preview: _closest(preview, pictures) for preview in previews}
    return {
        preview: picture
        for preview, picture in closest.items()
        if picture is not None and _closest(picture, previews) == preview
    }


def folder_of(session_identifier: str) -> str:
    """Where the pictures of a session lie below the previews path, whatever it is called."""
    return f"{FOLDER}/{hashlib.sha256(session_identifier.encode()).hexdigest()[:16]}"


def copy(picture: Path, preview_root: Path, location: str) -> str:
    """Have a copy of `picture` at `location` below `preview_root`, which is returned; raises `PreviewError`.

    Nobody sees a part of it, and an equal one that is there is left as it is.
    """
    target = preview_root / location
    try:
        content = picture.read_bytes()
        if not (target.is_file() and target.read_bytes() == content):
            write_whole(target, content)
    except OSError as error:
        raise PreviewError(f"The preview {picture} cannot be copied: {error.strerror}.") from error
    return location


def _closest(path: PurePath, others: Iterable[AnyPath]) -> AnyPath | None:
    """The one of `others` that ends most like `path`; None when none has its name, or several do alike."""
    shared = {other: _in_common(path, other) for other in others}
    most = max(shared.values(), default=0)
    closest = [other for other, count in shared.items() if count == most]
    return closest[0] if most and len(closest) == 1 else None


def _in_common(one: PurePath, other: PurePath) -> int:
    """In how many of their last parts two paths agree: 1 where only the names do."""
    count = 0
    for mine, its in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if mine != its:
            break
        count += 1
    return count


def _told_apart(pictures: Sequence[Path]) -> dict[Path, str]:
    """The names of the pictures, with as many of the folders above as tell them from each other."""
    names = {}
    for picture in pictures:
        alike = max((_in_common(picture, other) for other in pictures if other != picture), default=0)
        names[picture] = "/".join(picture.relative_to(picture.anchor).parts[-alike - 1 :])
    return names
