"""Reads tif files whose private tags describe the acquisition: Tescan, Fibics, Zeiss Orion and FEI's TIA.

RosettaSciIO reads such files without knowing these tags; tifs of other programs are left to it. Imported by `order` in
the child process only.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tifffile

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import tif_fibics, tif_orion, tif_tescan, tif_titan
from nexus_tasks.builder.readers.base import DamagedFileError, Dataset, Fact, file_format
from nexus_tasks.builder.readers.drawn import drawn
from nexus_tasks.builder.readers.layout import Axis, Layout
from nexus_tasks.builder.readers.layout_facts import layout_facts, signal_type
from nexus_tasks.builder.readers.tif_acquisition import Tags, TifAcquisition
from nexus_tasks.builder.readers.vocabulary import fact, in_order

EXTENSIONS = {".tif", ".tiff"}
MOST_BYTES = 256 * 1024 * 1024  # of a compressed picture, which is only read whole; others are mapped

_ORDINARY = (272, 305, 306, 315)  # model, software, date and artist
_PRIVATE = (tif_tescan.TAG, tif_fibics.TAG, tif_orion.TAG, *tif_titan.TAGS)

# Asked in this order: what each makes of the tags, None where they are not its own.
_VENDORS: tuple[Callable[[Tags, DataFile], TifAcquisition | None], ...] = (
    tif_tescan.acquisition,
    tif_fibics.acquisition,
    tif_orion.acquisition,
    tif_titan.acquisition,
)


class TaggedTif:
    """Tif files with the private tags, or with the `.hdr` file that Tescan's program writes beside them."""

    name = "tagged tif"

    def fits(self, file: DataFile) -> bool:
        """By extension, then by the tags."""
        if file.path.suffix.lower() not in EXTENSIONS:
            return False
        try:
            with tifffile.TiffFile(file.path) as tif:
                return _acquisition(_tags(tif), file) is not None
        except (tifffile.TiffFileError, IndexError):  # no tif, or one without a picture: for the next reader to say
            return False

    def read(self, file: DataFile) -> Iterator[Dataset]:
        """One dataset: further pictures in such files are small copies of the first."""
        with tifffile.TiffFile(file.path) as tif:
            tags = _tags(tif)
            acquisition = _acquisition(tags, file)
            if acquisition is None:
                raise ValueError("no program that is known here has described it")
            page: Any = tif.pages[0]
            layout = _layout(page, acquisition)
            picture, problem = drawn(lambda: _values(file, page), layout)
            facts = in_order([*acquisition.facts, *layout_facts(layout, _value_type(page)), *_plain_facts(tags)])
        yield Dataset(
            name=file.path.name,
            location=file.location,
            format=file_format(file),
            type="Diffraction" if acquisition.diffraction else signal_type(layout),
            acquired=acquisition.acquired or tags.saved,
            facts=facts,
            preview=picture,
            reader=acquisition.vendor,
            problem=problem,
        )


def _acquisition(tags: Tags, file: DataFile) -> TifAcquisition | None:
    return next((said for vendor in _VENDORS if (said := vendor(tags, file)) is not None), None)


def _tags(tif: tifffile.TiffFile) -> Tags:
    page: Any = tif.pages[0]
    return Tags({code: page.tags[code].value for code in (*_ORDINARY, *_PRIVATE) if code in page.tags})


def _plain_facts(tags: Tags) -> list[Fact | None]:
    """What the tif's ordinary tags say, for what the vendor's leave open."""
    return [fact("Microscope", tags.line(272)), fact("Software", tags.line(305)), fact("Operator", tags.line(315))]


def _layout(page: Any, acquisition: TifAcquisition) -> Layout:
    sizes = (int(page.imagelength), int(page.imagewidth))
    if min(sizes) <= 0:
        raise DamagedFileError(f"it says that its picture has {sizes[1]} × {sizes[0]} pixels")
    unit = None if acquisition.pixel_size is None else "nm"
    steps = acquisition.pixel_size or (1.0, 1.0)
    axes = tuple(
        Axis(name, unit, size, step * 1e9 if unit else step, 0.0, None)
        for name, size, step in zip("yx", sizes, steps, strict=True)
    )
    return Layout(axes, (0, 1), ())


def _values(file: DataFile, page: Any) -> Any:
    """The picture: mapped where it lies in one piece in the file, else read."""
    values: Any
    if page.is_memmappable:
        values = tifffile.memmap(file.path, page=0, mode="r")
    elif page.nbytes > MOST_BYTES:
        raise DamagedFileError(f"the picture is compressed and has {page.nbytes // 1024**2} MiB")
    else:
        values = page.asarray()
    values = values.squeeze() if page.samplesperpixel == 1 else values
    if values.ndim == 3 and values.shape[-1] in {3, 4}:  # colours, which `preview` knows by their names
        colours = np.dtype([(name, values.dtype) for name in "RGBA"[: values.shape[-1]]])
        values = np.ascontiguousarray(values).view(colours)[..., 0]
    return values


def _value_type(page: Any) -> str:
    return "RGBA"[: page.samplesperpixel] if page.samplesperpixel in {3, 4} else str(page.dtype)
