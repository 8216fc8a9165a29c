"""Draws spectra and line scans over axes with ticks and units; used by `preview`, in the child process only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from nexus_tasks.builder.drawing import lettering
from nexus_tasks.builder.drawing.scale_bar import draw_caption
from nexus_tasks.builder.readers.layout import Axis

INK, GRID, CURVE = "#333333", "#e6e6e6", "#1f5fa8"

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 46  # px around the plot
_TICK, _FINER = 4, 3  # px; how much finer a curve is drawn first, to come out smooth
_KEV, _EV = 1000.0, 0.001
_ENERGY_IN_KEV = 10_000  # eV; energies up to here stay in eV, as in energy-loss spectra
_LONGEST_NAME = 30  # letters

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Range:
    """What one side of a plot stands for: from its left or lower end to the other, and the text beside it."""

    first: float
    last: float
    title: str

    def share(self, value: float) -> float:
        """How far along the side a value lies."""
        return (value - self.first) / ((self.last - self.first) or 1.0)


def curve(values: Array, axis: Axis, size: tuple[int, int], *, step: int = 1, quantity: str = "") -> Image.Image:
    """A spectrum as a line over its axis; `step` where `values` are every n-th only, `quantity` names what they are."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    positions, title = _positions(axis, step)
    if positions[0] > positions[-1]:
        positions, values = positions[::-1], values[::-1]
    factor, values_title = _factor(values, quantity or "Intensity")
    values = values / factor
    low, high = min(0.0, float(values.min())), float(values.max())
    room = (high - low) * 0.05 or 1.0  # above the highest peak, and below the line where it goes under zero
    across = Range(float(positions[0]), float(positions[-1]), title)
    up = Range(low - room if low < 0 else low, high + room if high > low else low + 1.0, values_title)
    picture, box = _frame(size, across, up)
    _draw_line(picture, box, _outline(positions, values, box[2] - box[0]), across, up)
    _draw_axes(picture, box)
    return picture


def line_scan(levels: Image.Image, along: Axis, axis: Axis, size: tuple[int, int], *, note: str = "") -> Image.Image:
    """A picture whose rows are the spectra of a line, the first on top, between its two axes."""
    positions, title = _positions(axis, 1)
    places, places_title = _positions(along, 1)
    across, down = _edges(positions, title), _edges(places, places_title)
    if across.first > across.last:
        across, levels = Range(across.last, across.first, title), levels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture, box = _frame(size, across, Range(down.last, down.first, down.title), grid=False)
    fitted = (box[2] - box[0], box[3] - box[1])
    # Shrunk so that each value counts, enlarged so that one can see the channels and points.
    wide = levels.resize((fitted[0], levels.height), _resampling(levels.width, fitted[0]))
    shown = wide.resize(fitted, _resampling(levels.height, fitted[1]))
    picture.paste(draw_caption(shown, note) if note else shown, (box[0], box[1]))
    _draw_axes(picture, box, all_around=True)
    return picture


def ticks(first: float, last: float, most: int) -> list[float]:
    """At most `most` numbers from `first` to `last`, in either direction, at distances of 1, 2 or 5."""
    low, high = sorted((first, last))
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [first]
    power = 10.0 ** math.floor(math.log10(span / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        numbers = range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)
        if len(numbers) <= most:
            return [number * step for number in numbers]
    return [first]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Numbers with the same decimals, as few as tell them apart."""
    for decimals in range(10):
        labels = [f"{value:.{decimals}f}" for value in values]
        step = abs(values[1] - values[0]) if len(values) > 1 else abs(values[0]) / 10
        if all(abs(float(label) - value) <= step * 1e-3 for label, value in zip(labels, values, strict=True)):
            return [label if float(label) else label.lstrip("-") for label in labels]
    return [f"{value:.4g}" for value in values]


def _positions(axis: Axis, step: int) -> tuple[Array, str]:
    """The positions of every n-th element, energies in the unit that people use, and the axis's title."""
    if axis.values is not None:
        positions = np.asarray(axis.values, dtype=np.float64)[::step]
    else:
        positions = axis.offset + (axis.scale or 1.0) * np.arange(0, axis.size, step, dtype=np.float64)
    if not np.isfinite(positions).all():
        positions = np.arange(0, axis.size, step, dtype=np.float64)
    unit = axis.unit or ""
    highest = float(np.abs(positions).max())
    if unit == "eV" and highest > _ENERGY_IN_KEV:
        positions, unit = positions / _KEV, "keV"
    elif unit == "keV" and highest < 1:
        positions, unit = positions / _EV, "eV"
    name = " ".join(axis.name.replace("_", " ").split())[:_LONGEST_NAME]
    if axis.spectral and (not name or len(name) == 1) and unit in {"eV", "keV"}:
        name = "Energy"
    if not name:
        name = "" if unit else "Channel"
    name = name if len(name) == 1 else name[:1].upper() + name[1:]
    return positions, f"{name} ({unit})" if name and unit else name or unit


def _edges(positions: Array, title: str) -> Range:
    """From the outer edge of the first element to that of the last; each is as wide as it is far from the next."""
    first, last = float(positions[0]), float(positions[-1])
    half = (last - first) / (2 * (len(positions) - 1)) if len(positions) > 1 else 0.5
    return Range(first - half, last + half, title)


def _factor(values: Array, quantity: str) -> tuple[float, str]:
    """What to divide values by so that their ticks stay short, and the text that says so."""
    largest = float(np.abs(values).max())
    if 0.01 <= largest < 100_000 or not largest:
        return 1.0, quantity
    power = math.floor(math.log10(largest) / 3) * 3
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    name, _, unit = quantity.partition("(")
    return 10.0**power, f"{name.strip()} (10{raised}{' ' + unit if unit else ')'}"


def _frame(
    size: tuple[int, int], across: Range, up: Range, *, grid: bool = True
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A white picture with ticks, numbers and titles, and the box that is left for what is shown."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    box = (_LEFT, _TOP, size[0] - _RIGHT, size[1] - _BOTTOM)
    width, height = box[2] - box[0], box[3] - box[1]
    numbers = ticks(across.first, across.last, 8)
    for number, label in zip(numbers, tick_labels(numbers), strict=True):
        x = box[0] + round(across.share(number) * width)
        draw.line([(x, box[3]), (x, box[3] + _TICK)], fill=INK)
        if grid:
            draw.line([(x, box[1]), (x, box[3])], fill=GRID)
        lettering.write(picture, label, (x, box[3] + 14), colour=INK, side="middle")
    numbers = ticks(up.first, up.last, max(4, height // 34))
    for number, label in zip(numbers, tick_labels(numbers), strict=True):
        y = box[3] - round(up.share(number) * height)
        draw.line([(box[0] - _TICK, y), (box[0], y)], fill=INK)
        if grid:
            draw.line([(box[0], y), (box[2], y)], fill=GRID)
        lettering.write(picture, label, (box[0] - 7, y), colour=INK, side="right")
    lettering.write(picture, across.title, (box[0] + width / 2, size[1] - 12), colour=INK, side="middle")
    lettering.write(picture, up.title, (11, box[1] + height / 2), colour=INK, upwards=True)
    return picture, box


def _draw_axes(picture: Image.Image, box: tuple[int, int, int, int], *, all_around: bool = False) -> None:
    left, top, right, bottom = box
    draw = ImageDraw.Draw(picture)
    if all_around:
        draw.rectangle([(left - 1, top - 1), (right, bottom)], outline=INK)
    else:
        draw.line([(left, top), (left, bottom), (right, bottom)], fill=INK)


def _draw_line(
    picture: Image.Image, box: tuple[int, int, int, int], points: list[tuple[float, float]], across: Range, up: Range
) -> None:
    """A smooth line, the area below it tinted: drawn larger and shrunk."""
    left, top, right, bottom = box
    large = ((right - left + 1) * _FINER, (bottom - top + 1) * _FINER)

    def place(x: float, y: float) -> tuple[float, float]:
        return across.share(x) * (right - left) * _FINER, (1 - up.share(y)) * (bottom - top) * _FINER

    line = [place(x, y) for x, y in points]
    if len(line) == 1:  # a spectrum of one channel is a column
        line = [(0.0, line[0][1]), (large[0] - 1.0, line[0][1])]
    ground = place(across.first, max(0.0, up.first))[1]
    area = Image.new("1", large)
    ImageDraw.Draw(area).polygon([(line[0][0], ground), *line, (line[-1][0], ground)], fill=1)
    stroke = Image.new("L", large)
    ImageDraw.Draw(stroke).line(line, fill=255, width=_FINER + 1, joint="curve")
    tint = area.convert("L").reduce(_FINER).point([level // 5 for level in range(256)])
    picture.paste(CURVE, (left, top), tint)
    picture.paste(CURVE, (left, top), stroke.reduce(_FINER))


def _outline(positions: Array, values: Array, columns: int) -> list[tuple[float, float]]:
    """The points of the line: where many channels share a column of pixels its extremes, so that no peak is lost."""
    if values.size <= 2 * columns:
        return list(zip(positions.tolist(), values.tolist(), strict=True))
    starts = np.linspace(0, values.size, columns + 1).astype(np.int64)
    points: list[tuple[float, float]] = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        part = values[start:end]
        first, last = sorted((int(part.argmin()), int(part.argmax())))
        points += [(float(positions[start + place]), float(part[place])) for place in (first, last)]
    return points


def _resampling(size: int, wanted: int) -> Image.Resampling:
    return Image.Resampling.NEAREST if size <= wanted else Image.Resampling.BOX
