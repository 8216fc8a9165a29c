"""Reads text files that people and programs leave beside the data: their first lines; in the child process only."""

import io
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont

from nexus_tasks.builder.drawing.preview import SIDE
from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import DamagedFileError, Dataset, DatasetType, Fact, file_format

LOOKED_AT = 4096  # bytes, by which a text is told from binary data and its first lines are shown
LONGEST = 300  # characters of the fact that quotes it

_TYPES: dict[str, DatasetType] = {
    ".txt": "Notes",
    ".md": "Notes",
    ".log": "Notes",
    ".csv": "Misc",
    ".tsv": "Misc",
    ".ini": "Misc",
    ".hdr": "Misc",
    ".json": "Misc",
    ".xml": "Misc",
    ".yaml": "Misc",
    ".yml": "Misc",
}
_LINES, _COLUMNS, _LINE_HEIGHT, _MARGIN = 24, 80, 15, 10


class Texts:
    """Notes and tables; a file of that name with other contents is left to the next reader."""

    name = "texts"

    def fits(self, file: DataFile) -> bool:
        """By extension, and only what is text: programs write binary data under any name."""
        return file.path.suffix.lower() in _TYPES and _beginning(file) is not None

    def read(self, file: DataFile) -> Iterator[Dataset]:
        """One dataset of type Notes, or Misc for tables and settings."""
        text = _beginning(file)
        if text is None:
            raise DamagedFileError("it is no text")
        lines = text.splitlines()
        quoted = " / ".join(line.strip() for line in lines if line.strip())
        quoted = quoted if len(quoted) <= LONGEST else quoted[: LONGEST - 1] + "…"
        yield Dataset(
            name=file.path.name,
            location=file.location,
            format=file_format(file),
            type=_TYPES[file.path.suffix.lower()],
            acquired=None,
            facts=(Fact("Text", quoted),) if quoted else (),
            preview=_page(lines) if quoted else None,
            reader=self.name,
        )


def _beginning(file: DataFile) -> str | None:
    """The first characters; None for what is no text."""
    with file.path.open("rb") as stream:
        raw = stream.read(LOOKED_AT)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):  # Windows' editor
        return raw[: len(raw) // 2 * 2].decode("utf-16", "replace")
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in raw):
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        cut_off = len(raw) == LOOKED_AT and error.start > LOOKED_AT - 4
        return raw[: error.start].decode("utf-8-sig") if cut_off else raw.decode("cp1252", "replace")


def _page(lines: list[str]) -> bytes:
    """The first lines as a picture."""
    picture = Image.new("L", (SIDE, _LINES * _LINE_HEIGHT + 2 * _MARGIN), 255)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)
    for number, line in enumerate(lines[:_LINES]):
        draw.text((_MARGIN, _MARGIN + number * _LINE_HEIGHT), line.expandtabs(4)[:_COLUMNS], fill=40, font=font)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
