"""Turns numbers into grey levels; used by `preview` and `plots`, in the child process only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# Percentiles that become black and white, so that one hot pixel does not hide the rest; the second pair where the first
# are equal. On a logarithmic scale what is bright is so on few pixels.
CLIPPED = ((0.5, 99.5), (0.05, 99.95))
CLIPPED_LOGARITHMS = ((0.5, 99.95),)
FLAT = 128  # the grey of an image whose values are all equal, unless they are 0

_ENOUGH_FOR_PERCENTILES = 250_000  # values

Array = npt.NDArray[Any]


def grey(values: Array, *, logarithmic: bool = False) -> Image.Image:
    """Values as grey levels from black to white; what is no number is black."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Image.new("L", (values.shape[1], values.shape[0]))
    if logarithmic:
        values, finite = _logarithm(values, finite)
    low, high = _range(finite, CLIPPED_LOGARITHMS if logarithmic else CLIPPED)
    if high > low:
        levels = (values - low) / (high - low) * 255
    else:
        levels = np.full(values.shape, FLAT if low else 0.0)
        levels[~np.isfinite(values)] = 0
    levels = np.nan_to_num(levels, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255)
    return Image.fromarray(levels.round().astype(np.uint8))


def only_value(values: Array) -> float | None:
    """The value that all finite ones have; None when they differ or there are none."""
    finite = values[np.isfinite(values)]
    return float(finite[0]) if finite.size and finite.min() == finite.max() else None


def _range(finite: Array, clipped: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """What becomes black and what white: percentiles, or the extremes where little stands out of an even ground."""
    sample = finite[:: max(1, finite.size // _ENOUGH_FOR_PERCENTILES)]
    for percents in clipped:
        low, high = np.percentile(sample, percents)
        if high > low:
            return float(low), float(high)
    return float(finite.min()), float(finite.max())


def _logarithm(values: Array, finite: Array) -> tuple[Array, Array]:
    """Logarithms of what the values are above the ground, which itself stays visible.

    The ground is measured, so that counts and fractions of the brightest spot come out alike.
    """
    sample = finite[:: max(1, finite.size // _ENOUGH_FOR_PERCENTILES)]
    ground = np.percentile(sample, CLIPPED_LOGARITHMS[0][0])
    above = sample[sample > ground] - ground
    unit = float(np.median(above)) if above.size else 1.0
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.log1p((values - ground).clip(0) / unit), np.log1p((finite - ground).clip(0) / unit)
