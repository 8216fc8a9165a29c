"""Reads ordinary pictures (png, jpg, bmp, gif, webp) with Pillow; imported by `order` in the child process only."""

import io
from collections.abc import Iterator

from PIL import Image

from nexus_tasks.builder.drawing.preview import SIDE
from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Dataset, Fact, file_format

EXTENSIONS = {"png", "jpg", "jpeg", "jpe", "bmp", "dib", "gif", "webp", "pbm", "pgm", "ppm"}


class Pictures:
    """Pictures without any meaning that a microscope's program gave them."""

    name = "pictures"

    def fits(self, file: DataFile) -> bool:
        """By extension."""
        return file.path.suffix[1:].lower() in EXTENSIONS

    def read(self, file: DataFile) -> Iterator[Dataset]:
        """One dataset of type Image; raises what Pillow raises."""
        with Image.open(file.path) as picture:
            facts = (
                Fact("Data Dimensions", f"{picture.width} × {picture.height}"),
                Fact("Colour Mode", picture.mode),
            )
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))  # a large jpg is decoded smaller than it is
            small = picture.convert("RGB")
            small.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        small.save(stream, format="PNG", optimize=True)
        yield Dataset(
            name=file.path.name,
            location=file.location,
            format=file_format(file),
            type="Image",
            acquired=None,
            facts=facts,
            preview=stream.getvalue(),
            reader=self.name,
        )
