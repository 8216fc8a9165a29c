"""Draws the preview of a dataset as PNG, with numpy and Pillow; runs in the child process only.

This module decides what of a dataset is shown; `sampling` reads it, `tones` makes it grey, `plots` draws curves, and
`scale_bar` says how large it is.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nexus_tasks.builder.drawing import plots, sampling, tones
from nexus_tasks.builder.drawing.scale_bar import draw_caption, draw_scale_bar, scale_bar
from nexus_tasks.builder.readers.layout import Axis, Layout

SIDE = 500  # px, the longer side of every preview
LONGEST_ASPECT = 4  # a map of few lines is widened, or nobody could see it

_PLOT_HEIGHT = 360
_MAP_HEIGHT, _SPECTRUM_HEIGHT = 306, 184  # of a spectrum image: the map above, the spectrum below
_GAP = 10
_COMPRESSION = 6  # of 9; the last percent can take ten times as long
_PIXELS_ARE_SEEN = 3  # times enlarged
_LONGEST_NAME = 12  # letters

Array = npt.NDArray[Any]


def render(data: Any, layout: Layout, *, quantity: str = "", diffraction: bool = False) -> bytes | None:
    """The preview of an array, which may be a dask one; None for what cannot be drawn.

    `quantity` is written beside spectra, such as "X-rays (counts)". `diffraction` says that two-dimensional signals are
    diffraction patterns, where their axes do not tell; these are shown on a logarithmic scale.
    """
    if not data.size:
        return None
    with np.errstate(all="ignore"):
        picture = _draw(data, layout, quantity, diffraction=diffraction)
    if picture is None:
        return None
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=_COMPRESSION)
    return stream.getvalue()


def _draw(data: Any, layout: Layout, quantity: str, *, diffraction: bool) -> Image.Image | None:
    if data.dtype.names:
        return _colours(data, layout) if {"R", "G", "B"} <= set(data.dtype.names) else None
    if data.dtype.kind not in "biufc":
        return None
    data, layout = _essential(sampling.mapped(data), layout)
    if len(layout.signal) == 1:
        return _spectra(data, layout, quantity)
    return _frames(data, layout, diffraction=diffraction)


def _essential(data: Any, layout: Layout) -> tuple[Any, Layout]:
    """The same without axes of one element, where others are left, and with the axes of the signal last.

    What has no axes of a signal is a picture of its last two.
    """
    signal, navigation = layout.signal, layout.navigation
    if not signal:
        signal, navigation = navigation[-2:], navigation[:-2]
    navigation = tuple(axis for axis in navigation if layout.axes[axis].size > 1)
    signal = tuple(axis for axis in signal if layout.axes[axis].size > 1) or signal[-1:]
    if len(signal) > 2:
        signal, navigation = signal[-2:], (*navigation, *signal[:-2])
    order = (*navigation, *signal)
    for axis in reversed(range(data.ndim)):
        if axis not in order:
            data = data[(slice(None),) * axis + (0,)]
    kept = sorted(order)
    data = data.transpose([kept.index(axis) for axis in order])
    axes = tuple(layout.axes[axis] for axis in order)
    return data, Layout(axes, tuple(range(len(navigation), len(order))), tuple(range(len(navigation))))


def _spectra(data: Any, layout: Layout, quantity: str) -> Image.Image:
    axis = layout.axes[-1]
    if not layout.navigation:
        values, step = sampling.points(data)
        return plots.curve(values, axis, (SIDE, _PLOT_HEIGHT), step=step, quantity=quantity)
    if len(layout.navigation) == 1:
        whole = data.shape[0]
        data = sampling.middle_of_scan(data, layout.navigation)
        along = _cut(layout.axes[0], (whole - data.shape[0]) // 2, data.shape[0])
        # The root, as it brings out weak lines beside strong ones, and their noise alike.
        values = sampling.image(data)
        levels = tones.grey(np.sign(values) * np.sqrt(np.abs(values)))
        return plots.line_scan(levels, along, axis, (SIDE, _PLOT_HEIGHT), note="square root of intensity")
    return _spectrum_image(data, layout, quantity)


def _spectrum_image(data: Any, layout: Layout, quantity: str) -> Image.Image:
    """The map of the sum over all channels, and the sum of all spectra below."""
    data, notes = _middle(data, layout, 3)
    rows, columns, axis = layout.axes[-3:]
    whole = data.shape
    data = sampling.middle_of_scan(data, (0, 1))
    if data.shape != whole:
        notes.append(f"middle {data.shape[1]} × {data.shape[0]} of {whole[1]} × {whole[0]} points")
    total, spectrum, step = sampling.map_and_spectrum(data)
    columns, rows = replace(columns, size=data.shape[1]), replace(rows, size=data.shape[0])
    shown = _picture(_Picture(total, rows, columns, ("sum over all channels", *notes)), (SIDE, _MAP_HEIGHT))
    below = plots.curve(spectrum, axis, (SIDE, _SPECTRUM_HEIGHT), step=step, quantity=quantity)
    picture = Image.new("RGB", (SIDE, shown.height + _GAP + below.height), "white")
    picture.paste(shown, ((SIDE - shown.width) // 2, 0))
    picture.paste(below, (0, shown.height + _GAP))
    return picture


@dataclass(frozen=True)
class _Picture:
    """Numbers to be shown as a picture."""

    values: Array
    rows: Axis
    columns: Axis
    notes: tuple[str, ...] = ()
    logarithmic: bool = False


def _frames(data: Any, layout: Layout, *, diffraction: bool) -> Image.Image:
    """A two-dimensional signal: an image, the middle one of a stack, or the mean of the patterns of a scan."""
    rows, columns = layout.axes[-2:]
    reciprocal = diffraction or rows.reciprocal or columns.reciprocal
    of_a_map = len(layout.navigation) >= 2 and not (columns.calibrated and not reciprocal)
    # Complex numbers without calibration are Fourier transforms more often than waves.
    logarithmic = reciprocal or of_a_map or (data.dtype.kind == "c" and not columns.calibrated)
    notes = []
    if of_a_map:
        scan = data.shape[:-2]
        data = sampling.middle_of_scan(data, layout.navigation)
        middle = "the middle " if data.shape[:-2] != scan else ""
        values, count = sampling.mean_frame(data)
        total = math.prod(data.shape[:-2])
        notes.append(f"mean of {count} of {middle}{total} patterns" if count < total else f"mean of {count} patterns")
    else:
        data, notes = _middle(data, layout, 2)
        values = sampling.image(data)
    if data.dtype.kind == "c":
        notes.append("amplitude")
    only = tones.only_value(values)
    if only is not None:
        notes.append(f"all values are {only:.6g}")
    elif logarithmic:
        notes.append("log scale")
    return _picture(_Picture(values, rows, columns, tuple(notes), logarithmic), (SIDE, SIDE))


def _colours(data: Any, layout: Layout) -> Image.Image:
    """A picture of RGB or RGBA pixels; of a stack the middle one."""
    data, layout = _essential(data, replace(layout, signal=(), navigation=tuple(range(data.ndim))))
    data, notes = _middle(data, layout, 2)
    data = data if data.ndim == 2 else data[None]
    channels = np.stack([sampling.image(data[name]) for name in "RGB"], axis=-1)
    channels *= {"u": 255 / np.iinfo(data.dtype["R"]).max}.get(data.dtype["R"].kind, 1.0)
    colours = Image.fromarray(np.nan_to_num(channels).clip(0, 255).round().astype(np.uint8))
    rows, columns = (layout.axes[-2] if data.shape[0] > 1 else layout.axes[-1]), layout.axes[-1]
    return _finished(colours, rows, columns, notes, (SIDE, SIDE))


def _picture(shown: _Picture, box: tuple[int, int]) -> Image.Image:
    levels = tones.grey(shown.values, logarithmic=shown.logarithmic)
    return _finished(levels, shown.rows, shown.columns, shown.notes, box)


def _finished(
    picture: Image.Image, rows: Axis, columns: Axis, notes: Sequence[str], box: tuple[int, int]
) -> Image.Image:
    """The picture fitted into `box`, with its scale bar, and with its notes as a caption."""
    size = _fitted(rows, columns, box)
    enlarged = min(size[0] / picture.width, size[1] / picture.height)
    # Enlarged so that one can see the pixels, unless they would come out uneven.
    smooth = Image.Resampling.LANCZOS if enlarged < 1 else Image.Resampling.BICUBIC
    picture = picture.resize(size, Image.Resampling.NEAREST if enlarged >= _PIXELS_ARE_SEEN else smooth)
    bar = columns.unit and scale_bar((columns.scale or 0.0) * columns.size / size[0], columns.unit, size[0])
    picture = draw_scale_bar(picture, bar) if bar else picture
    return draw_caption(picture, ", ".join(notes)) if notes else picture


def _fitted(rows: Axis, columns: Axis, box: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture as large as `box` allows, with the proportions of the specimen where known."""
    width, height = float(columns.size), float(rows.size)
    if rows.calibrated and columns.calibrated and rows.unit == columns.unit:
        height *= abs((rows.scale or 1.0) / (columns.scale or 1.0))
    width, height = max(width, height / LONGEST_ASPECT), max(height, width / LONGEST_ASPECT)
    scale = min(box[0] / width, box[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _middle(data: Any, layout: Layout, dimensions: int) -> tuple[Any, list[str]]:
    """The middle of all axes before the last `dimensions`, and which ones of how many that are."""
    axes, notes = layout.axes[: max(0, data.ndim - dimensions)], []
    for axis in axes:
        name = " ".join(axis.name.replace("_", " ").split())
        known = len(axes) > 1 and 1 <= len(name) <= _LONGEST_NAME
        notes.append(f"{name if known else 'frame'} {axis.size // 2 + 1} of {axis.size}")
        data = data[axis.size // 2]
    return data, notes


def _cut(axis: Axis, first: int, size: int) -> Axis:
    """The part of an axis that begins with its element `first`."""
    if size == axis.size:
        return axis
    values = None if axis.values is None else axis.values[first : first + size]
    return replace(axis, size=size, offset=axis.offset + first * (axis.scale or 1.0), values=values)
