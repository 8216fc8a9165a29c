"""Reads ordinary pictures (png, jpg, bmp, gif, webp) with Pillow; imported by `order` in the child process only."""

import io
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from nexus_tasks.builder.drawing import tones
from nexus_tasks.builder.drawing.preview import SIDE
from nexus_tasks.builder.drawing.sampling import MOST_PIXELS
from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Dataset, Fact, file_format

EXTENSIONS = {"png", "jpg", "jpeg", "jpe", "bmp", "dib", "gif", "webp", "pbm", "pgm", "ppm"}

_NUMBERS = ("I", "F")  # how the modes begin whose values are more than the 256 of a screen


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
            small = _grey(picture) if picture.mode.startswith(_NUMBERS) else picture.convert("RGB")
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


def _grey(picture: Image.Image) -> Image.Image:
    """A picture of numbers, made smaller before they become an array, which would take as much memory again."""
    whole = picture if picture.mode in {"I", "F"} else picture.convert("I")  # the others cannot be reduced
    reduced = whole.reduce(math.ceil(max(whole.size) / MOST_PIXELS))
    return tones.grey(np.asarray(reduced))
