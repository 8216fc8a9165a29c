"""Reads ordinary pictures (png, jpg, bmp, gif) with Pillow; runs in the child process only."""

import io

from PIL import Image

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Dataset, Fact, file_format
from nexus_tasks.builder.readers.preview import SIDE

EXTENSIONS = {"png", "jpg", "jpeg", "bmp", "gif"}


def read(file: DataFile) -> tuple[Dataset, ...]:
    """One dataset of type Image; raises what Pillow raises."""
    with Image.open(file.path) as picture:
        facts = (
            Fact("Data Dimensions", f"{picture.width} × {picture.height}", "px"),
            Fact("Colour Mode", picture.mode),
        )
        small = picture.convert("RGB")
        small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, format="PNG", optimize=True)
    return (
        Dataset(
            name=file.path.name,
            location=file.location,
            format=file_format(file),
            type="Image",
            acquired=None,
            facts=facts,
            preview=stream.getvalue(),
            reader="pictures",
        ),
    )
