"""Draws the preview of a dataset as PNG, with numpy and Pillow; runs in the child process only.

Pictures are read with strides, so that a preview of a stack or spectrum image of many gigabytes touches a bounded
number of values.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from nexus_tasks.builder.readers.layout import Axis, Layout

SIDE = 500  # px, the longer side of every preview
CLIPPED_PERCENT = 0.5  # of the darkest and of the brightest pixels, so that one hot pixel does not hide the rest
MOST_VALUES_SUMMED = 64 * 1024 * 1024  # of a spectrum image; more are thinned out along the energy
LONGEST_ASPECT = 4  # a line scan of few points is widened, or nobody could see it

_ENOUGH_FOR_PERCENTILES = 200_000  # values
_PLOT_HEIGHT = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 14, 46  # px around the plot
_INK, _GRID, _CURVE = "#333333", "#e4e4e4", "#1f5fa8"

Array = npt.NDArray[Any]


def render(data: Any, layout: Layout) -> bytes | None:
    """The preview of an array, which may be a dask one; None for what cannot be drawn."""
    picture = _draw(data, layout) if data.size else None
    if picture is None:
        return None
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _draw(data: Any, layout: Layout) -> Image.Image | None:
    signal, navigation = layout.signal, layout.navigation
    picture: Image.Image | None = None
    if data.dtype.names:
        picture = _fit(_colours(data), data.shape[-2:])
    elif data.dtype.kind not in "biufc" or not signal:
        picture = None
    elif len(signal) == 1 and not navigation:
        picture = _curve(_loaded(data), layout.axes[signal[0]])
    elif len(signal) == 1 and len(navigation) == 1:
        scan = data if signal[0] == 1 else data.T
        picture = _fit(_grey(_thinned(scan)), scan.shape)
    elif len(signal) == 1:
        summed = _summed(data, signal[0])
        picture = _fit(_grey(_thinned(summed)), summed.shape)
    else:
        middle = [slice(None) if axis in signal[-2:] else size // 2 for axis, size in enumerate(data.shape)]
        frame = data[tuple(middle)]
        if min(frame.shape) > 1:
            picture = _fit(_grey(_thinned(frame)), frame.shape)
        else:
            picture = _curve(_loaded(frame).ravel(), layout.axes[signal[-1 if frame.shape[0] == 1 else -2]])
    return picture


def _loaded(data: Any) -> Array:
    return np.asarray(data.compute() if hasattr(data, "compute") else data)


def _thinned(data: Any) -> Array:
    """A two-dimensional array with at most four times the pixels that will be seen in each direction."""
    rows, columns = (max(1, size // (4 * SIDE)) for size in data.shape)
    return _loaded(data[::rows, ::columns])


def _summed(data: Any, energy: int) -> Array:
    """The map of a spectrum image: the sum over the energy; of further navigation axes the middle."""
    while data.ndim > 3:
        axis = next(axis for axis in range(data.ndim) if axis != energy)
        data = data[tuple(data.shape[axis] // 2 if index == axis else slice(None) for index in range(data.ndim))]
        energy -= axis < energy
    step = max(1, math.ceil(data.size / MOST_VALUES_SUMMED))
    channels = data[tuple(slice(None, None, step) if axis == energy else slice(None) for axis in range(3))]
    return _loaded(channels.sum(axis=energy, dtype=np.float64))


def _colours(data: Any) -> Image.Image:
    """A picture of RGB or RGBA pixels; of a stack the middle one."""
    while data.ndim > 2:
        data = data[data.shape[0] // 2]
    pixels = _thinned(data)
    names = pixels.dtype.names or ()
    channels = np.stack([pixels[name] for name in names[:3]], axis=-1)
    if channels.dtype == np.uint16:
        channels = channels >> 8
    return Image.fromarray(np.ascontiguousarray(channels.astype(np.uint8)))


def _grey(values: Array) -> Image.Image:
    """Values as grey levels between the percentiles; complex ones by the logarithm of their magnitude."""
    values = np.log1p(np.abs(values)) if np.iscomplexobj(values) else values.astype(np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Image.new("L", (values.shape[1], values.shape[0]))
    sample = finite[:: max(1, finite.size // _ENOUGH_FOR_PERCENTILES)]
    low, high = np.percentile(sample, (CLIPPED_PERCENT, 100 - CLIPPED_PERCENT))
    if high <= low:  # a few bright points on nothing
        low, high = finite.min(), finite.max()
    span = high - low if high > low else 1.0
    levels = np.nan_to_num((values - low) / span, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    return Image.fromarray((levels * 255).round().astype(np.uint8))


def _fit(picture: Image.Image, shape: tuple[int, ...]) -> Image.Image:
    """The picture of an array of `shape` (thinned, perhaps not evenly) with its longer side at 500 px.

    It is made smaller smoothly, larger so that one can see the pixels.
    """
    height, width = shape
    scale = SIDE / max(width, height)
    least = SIDE // LONGEST_ASPECT if max(width, height) > LONGEST_ASPECT * min(width, height) else 1
    size = (max(least, round(width * scale)), max(least, round(height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _curve(values: Array, axis: Axis) -> Image.Image:
    """A spectrum as a line over its axis, with ticks in the axis's unit."""
    values = np.abs(values) if np.iscomplexobj(values) else values.astype(np.float64)
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    positions = np.asarray(axis.positions(), dtype=np.float64)
    order = np.argsort(positions, kind="stable")
    positions, values = positions[order], values[order]
    left, right = float(positions[0]), float(positions[-1])
    low, high = min(0.0, float(values.min())), float(values.max())
    high = low + (high - low) * 1.05 if high > low else low + 1.0  # room above the highest peak

    picture = Image.new("RGB", (SIDE, _PLOT_HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    width, height = SIDE - _LEFT - _RIGHT, _PLOT_HEIGHT - _TOP - _BOTTOM
    base = _TOP + height

    def across(position: float) -> float:
        return _LEFT + (position - left) / ((right - left) or 1.0) * width

    def up(value: float) -> float:
        return base - (value - low) / (high - low) * height

    for tick in _ticks(left, right):
        draw.line([(across(tick), _TOP), (across(tick), base)], fill=_GRID)
        draw.text((across(tick), base + 4), _label(tick), fill=_INK, font=font, anchor="mt")
    for tick in _ticks(low, high):
        draw.line([(_LEFT, up(tick)), (_LEFT + width, up(tick))], fill=_GRID)
        draw.text((_LEFT - 6, up(tick)), _label(tick), fill=_INK, font=font, anchor="rm")
    draw.line(_envelope(across, up, positions, values, width), fill=_CURVE, width=1, joint="curve")
    draw.line([(_LEFT, _TOP), (_LEFT, base), (_LEFT + width, base)], fill=_INK)
    title = f"{axis.name} ({axis.unit})" if axis.name and axis.unit else axis.name or axis.unit or "channel"
    draw.text((_LEFT + width / 2, _PLOT_HEIGHT - 6), title, fill=_INK, font=font, anchor="mb")
    return picture


def _envelope(across: Any, up: Any, positions: Array, values: Array, columns: int) -> list[tuple[float, float]]:
    """The points of the line: where many channels share a column of pixels its extremes, so that no peak is lost."""
    if values.size <= 2 * columns:
        return [(across(float(x)), up(float(y))) for x, y in zip(positions, values, strict=True)]
    points = []
    for xs, ys in zip(np.array_split(positions, columns), np.array_split(values, columns), strict=True):
        first, last = sorted((int(ys.argmin()), int(ys.argmax())))
        points += [(across(float(xs[index])), up(float(ys[index]))) for index in (first, last)]
    return points


def _ticks(low: float, high: float, about: int = 7) -> Sequence[float]:
    """Round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= raw), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _label(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value:.3g}".replace("e+0", "e")
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
