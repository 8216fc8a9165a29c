"""Scale bars and captions on pictures; used by `preview`, in the child process only.

Both are white on a dark plate that lets the picture through, so that they can be read on bright and on dark.
"""

import math
import re
from dataclasses import dataclass

from PIL import Image

from nexus_tasks.builder.drawing import lettering

LONGEST = 0.34  # of the picture's width; with steps of 1, 2 and 5 a bar is never shorter than a third of that

_MARGIN, _PADDING, _GAP, _THICKNESS = 10, 8, 6, 5  # px
_SIZE, _CAPTION_SIZE = 16, 13  # of letters, px
_PLATE_OPACITY = 0.62
_LEAST_PICTURE = 60  # px; a plate would hide too much of a smaller one

_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "µm": 1e-6, "nm": 1e-9, "Å": 1e-10, "pm": 1e-12, "fm": 1e-15}
_SPELLINGS = {
    **dict.fromkeys(("um", "micron", "microns", "micrometer", "micrometre", "micrometers"), "µm"),
    **dict.fromkeys(("a", "ang", "angstrom", "angstroms", "Å"), "Å"),
    **dict.fromkeys(("meter", "meters", "metre", "metres"), "m"),
    **dict.fromkeys(("nanometer", "nanometers", "nanometre", "nanometres"), "nm"),
    **dict.fromkeys(("millimeter", "millimeters", "millimetre", "millimetres"), "mm"),
}
_RADIANS = {"rad": 1.0, "mrad": 1e-3, "µrad": 1e-6, "urad": 1e-6}
_RECIPROCAL = re.compile(r"1\s*/\s*(?P<below>\S+)|(?P<raised>[^\W\d]+)\s*\^?\s*\(?(?:-1|⁻¹)\)?")

# What bars are shown in, and from which number on: 200 nm rather than 0.2 µm, but 0.5 nm rather than 500 pm.
_SHOWN_LENGTHS = {"m": 1.0, "mm": 1.0, "µm": 1.0, "nm": 0.1, "pm": 0.0}
_SHOWN_ANGLES = {"rad": 1.0, "mrad": 0.1, "µrad": 0.0}
_SHOWN_RECIPROCALS = {"nm": 0.1, "µm": 0.1, "mm": 0.1, "m": 0.0}
_SPACE = "  "  # between number and unit; the font's own is narrow


@dataclass(frozen=True)
class ScaleBar:
    """How long the bar is, in px, and what it says."""

    length: float
    label: str


def scale_bar(per_pixel: float, unit: str, width: int) -> ScaleBar | None:
    """The bar for a picture `width` px wide, one px of which is `per_pixel` of `unit`; None where that says nothing."""
    per_pixel = abs(per_pixel)
    if not math.isfinite(per_pixel) or not 0 < per_pixel * width < math.inf:
        return None
    per_pixel, unit = _in_shown_unit(per_pixel, unit, LONGEST * width)
    longest = per_pixel * LONGEST * width
    if not 1e-12 < longest < 1e12:  # no instrument's doing
        return None
    value = nice_below(longest)
    return ScaleBar(value / per_pixel, f"{value:.12g}{_SPACE}{unit}")


def nice_below(number: float) -> float:
    """The largest of …, 0.5, 1, 2, 5, 10, … that is not above `number`."""
    power = math.floor(math.log10(number))
    digits = number / 10.0**power
    first = next(step for step in (10, 5, 2, 1, 0.5) if step <= digits * (1 + 1e-9))
    return float(f"{first}e{power}")


def draw_scale_bar(picture: Image.Image, bar: ScaleBar) -> Image.Image:
    """The picture with the bar in its lower left corner, or as it was if it is too small for one."""
    length = round(bar.length)
    inside = max(length, lettering.width(bar.label, _SIZE))
    plate = (inside + 2 * _PADDING, _THICKNESS + _GAP + _capitals(_SIZE) + 2 * _PADDING)
    left, top = _MARGIN, picture.height - _MARGIN - plate[1]
    if not _has_room(picture, plate):
        return picture
    picture = _darkened(picture, (left, top, left + plate[0], top + plate[1]))
    middle = left + plate[0] / 2
    start, base = round(middle - length / 2), top + plate[1] - _PADDING
    picture.paste("white", (start, base - _THICKNESS, start + length, base))
    at = (middle, top + _PADDING + _capitals(_SIZE) / 2)
    lettering.write(picture, bar.label, at, colour="white", size=_SIZE, side="middle")
    return picture


def draw_caption(picture: Image.Image, caption: str) -> Image.Image:
    """The picture with a caption in its upper left corner, or as it was if it is too small for one."""
    plate = (lettering.width(caption, _CAPTION_SIZE) + _PADDING * 3 // 2, _capitals(_CAPTION_SIZE) + 2 * _PADDING - 2)
    if not _has_room(picture, plate):
        return picture
    picture = _darkened(picture, (_MARGIN, _MARGIN, _MARGIN + plate[0], _MARGIN + plate[1]))
    at = (_MARGIN + plate[0] / 2, _MARGIN + plate[1] / 2)
    lettering.write(picture, caption, at, colour="white", size=_CAPTION_SIZE, side="middle")
    return picture


def _in_shown_unit(per_pixel: float, unit: str, pixels: float) -> tuple[float, str]:
    """The same in the unit that gives the most readable number for `pixels` of them."""
    unit = unit.strip().replace("\N{GREEK SMALL LETTER MU}", "µ").replace("\N{MINUS SIGN}", "-")
    name = _spelled(unit)
    if name in _METRES:
        return _converted(per_pixel * _METRES[name], pixels, _METRES, _SHOWN_LENGTHS)
    if name in _RADIANS:
        return _converted(per_pixel * _RADIANS[name], pixels, _RADIANS, _SHOWN_ANGLES)
    match = _RECIPROCAL.fullmatch(unit)
    below = _spelled(match["below"] or match["raised"]) if match else ""
    if below in _METRES:
        sizes = {each: 1 / size for each, size in _METRES.items()}
        per_pixel, unit = _converted(per_pixel / _METRES[below], pixels, sizes, _SHOWN_RECIPROCALS)
        return per_pixel, f"{unit}⁻¹"
    return per_pixel, {"deg": "°", "degree": "°", "degrees": "°"}.get(unit.lower(), unit)


def _spelled(unit: str) -> str:
    """The unit in one spelling; m and M are told apart by no microscope's file, but nm and NM mean the same."""
    unit = unit if unit in _METRES or unit in _RADIANS else _SPELLINGS.get(unit.lower(), unit)
    return unit if unit in _METRES or unit in _RADIANS else unit.lower()


def _converted(per_pixel: float, pixels: float, sizes: dict[str, float], shown: dict[str, float]) -> tuple[float, str]:
    """The same in the first of the `shown` units of which the bar has enough."""
    value = nice_below(per_pixel * pixels)
    name = next(name for name, least in shown.items() if value / sizes[name] >= least * (1 - 1e-9))
    return per_pixel / sizes[name], name


def _capitals(size: int) -> int:
    """The height of capital letters, in px."""
    return round(size * 0.72)


def _has_room(picture: Image.Image, plate: tuple[int, int]) -> bool:
    return min(picture.size) >= _LEAST_PICTURE and all(
        side + 2 * _MARGIN <= room for side, room in zip(plate, picture.size, strict=True)
    )


def _darkened(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    picture = picture.copy()
    part = picture.crop(box)
    plate = Image.new(picture.mode, part.size)
    picture.paste(Image.blend(part, plate, _PLATE_OPACITY), box)
    return picture
