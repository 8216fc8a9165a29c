"""Tells whether two workers see the same folder: a marker in it with a random id; `presence` reads it."""

import uuid
from pathlib import Path

MARKER = ".nexus-tasks-folder"
LONGEST_ID = 64  # characters


def id_of(folder: Path, *, may_mark: bool) -> str | None:
    """The id of a folder; "" when there is none to be seen, None while another process is writing it.

    Who is first marks the folder (`may_mark`). Nobody may as soon as some worker sees a marker elsewhere: a share that
    is not mounted must not get one of its own.
    """
    marker = folder / MARKER
    try:
        if may_mark:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with marker.open("x", encoding="ascii") as file:
                    file.write(f"{uuid.uuid4().hex}\n")
            except FileExistsError:
                pass
        with marker.open(encoding="ascii", errors="replace") as file:
            return file.read(LONGEST_ID).strip() or None
    except OSError:
        return ""
