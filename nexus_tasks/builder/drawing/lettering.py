"""Writes text into previews; used by `scale_bar` and `plots`, in the child process only.

Pillow carries a font of its own, which every machine therefore has; but its letters are those of English. What units
need beyond them is made of those: µ from u, exponents from small digits.
"""

import unicodedata
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageChops, ImageDraw, ImageFont

SIZE = 13  # px

_EXPONENT_SIZE, _EXPONENT_RISE = 0.75, 0.36  # of the text's size
_EXPONENTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_SIMILAR = {"\N{GREEK SMALL LETTER MU}": "µ", "\N{MINUS SIGN}": "-", "×": "x"}

Colour = str | int | tuple[int, int, int]
Side = Literal["left", "middle", "right"]


def write(
    picture: Image.Image,
    text: str,
    at: tuple[float, float],
    *,
    colour: Colour,
    size: int = SIZE,
    side: Side = "left",
    upwards: bool = False,
) -> None:
    """Write `text` with its left end, middle or right end at `at`, which is half way up its capitals.

    `upwards` turns it by 90°, to be read from the right, with its middle at `at`.
    """
    ink, middle = _ink(text, size)
    x, y = at
    if upwards:
        ink = ink.transpose(Image.Transpose.ROTATE_90)
        corner = (round(x - middle), round(y - ink.height / 2))
    else:
        shift = {"left": 0.0, "middle": ink.width / 2, "right": float(ink.width)}[side]
        corner = (round(x - shift), round(y - middle))
    picture.paste(colour, (*corner, corner[0] + ink.width, corner[1] + ink.height), ink)


def width(text: str, size: int = SIZE) -> int:
    """How many px wide `text` becomes."""
    return _ink(text, size)[0].width


@lru_cache(maxsize=64)
def _ink(text: str, size: int) -> tuple[Image.Image, float]:
    """The text as a mask, and how far down half the height of its capitals is."""
    parts = _parts(text)
    font, small = _font(size), _font(round(size * _EXPONENT_SIZE))
    ascent, descent = font.getmetrics()
    widths = [(small if raised else font).getlength(part.replace("µ", "u")) for part, raised in parts]
    ink = Image.new("L", (max(1, round(sum(widths)) + 2), ascent + descent + 1))
    x = 1.0
    for (part, raised), length in zip(parts, widths, strict=True):
        baseline = ascent - (round(size * _EXPONENT_RISE) if raised else 0)
        used = small if raised else font
        ImageDraw.Draw(ink).text((x, baseline), part.replace("µ", "u"), fill=255, font=used, anchor="ls")
        for index, letter in enumerate(part):
            if letter == "µ":
                _lengthen(ink, round(x + used.getlength(part[:index].replace("µ", "u"))), baseline, size)
        x += length
    capital = font.getbbox("H", anchor="ls")
    return ink, ascent + capital[1] / 2


def _parts(text: str) -> list[tuple[str, bool]]:
    """Runs of letters that the font has, and whether they are exponents."""
    parts: list[tuple[str, bool]] = []
    for letter in text:
        raised = letter in _EXPONENTS
        known = _EXPONENTS[letter] if raised else _similar(letter)
        # An own run for µ: the place of its stem is then a whole px.
        if parts and parts[-1][1] == raised and "µ" not in parts[-1][0] + known:
            parts[-1] = (parts[-1][0] + known, raised)
        else:
            parts.append((known, raised))
    return parts


def _similar(letter: str) -> str:
    """What the font has for `letter`: itself, its name if it is Greek, the letter without accents, or nothing."""
    letter = _SIMILAR.get(letter, letter)
    if " " <= letter <= "~" or letter in "µ·°–…":
        return letter
    name = unicodedata.name(letter, "")
    if name.startswith("GREEK ") and " LETTER " in name:
        word = name.rsplit(" LETTER ", 1)[1].split()[0].lower()
        return word.capitalize() if "CAPITAL" in name else word
    return "".join(part for part in unicodedata.normalize("NFKD", letter) if " " <= part <= "~")


def _lengthen(ink: Image.Image, left: int, baseline: int, size: int) -> None:
    """Make a µ of the u at `left`: its left stem goes on below the line."""
    row = baseline - max(2, size // 4)
    across = [column for column in range(left, left + size // 2) if 0 <= column < ink.width]
    stem: list[int] = []
    for level in ink.crop((across[0], row, across[-1] + 1, row + 1)).tobytes():
        if any(stem) and not level:
            break
        stem.append(level)
    longer = Image.new("L", ink.size)
    for column, level in zip(across, stem, strict=False):
        longer.paste(level, (column, row, column + 1, min(ink.height, baseline + max(2, round(size / 4)))))
    ink.paste(ImageChops.lighter(ink, longer))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow built without FreeType has one of a single size
        raise TypeError("Pillow was built without FreeType: install it from its own wheels")
    return font
