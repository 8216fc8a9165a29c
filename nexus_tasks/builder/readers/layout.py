"""What the axes of a RosettaSciIO signal mean: which are the signal's, which navigate; runs in the child process only.

`rosettasciio` decides the dataset's type by it, `preview` what to draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

_ENERGY_UNITS = {"ev", "kev", "da", "m/z"}
_RECIPROCAL = ("1/", "^-1", "-1", "⁻¹", "mrad")


@dataclass(frozen=True)
class Axis:
    """One axis of the data; `scale` and `offset` are in `unit`."""

    name: str
    unit: str | None
    size: int
    scale: float | None  # None for an axis that is not uniform
    offset: float
    values: tuple[float, ...] | None  # the positions of such an axis

    @classmethod
    def from_rosettasciio(cls, axis: dict[str, Any], size: int) -> Self:
        """One of the dictionaries in a signal's `axes`; the array knows its size best."""
        values = axis.get("axis")
        values = None if values is None or len(values) != size else tuple(float(value) for value in values)
        scale, offset = _number(axis.get("scale")), _number(axis.get("offset"))
        return cls(
            name=str(axis.get("name") or ""),
            unit=_unit(axis.get("units")),
            size=size,
            scale=scale if values is None else None,
            offset=offset or 0.0,
            values=values,
        )

    @property
    def calibrated(self) -> bool:
        """Whether the scale says anything: it has a unit and is not zero."""
        return bool(self.unit and self.scale)

    @property
    def spectral(self) -> bool:
        """Whether positions along it are energies or masses."""
        return (self.unit or "").lower() in _ENERGY_UNITS or "energy" in self.name.lower()

    @property
    def reciprocal(self) -> bool:
        """Whether its unit is one of reciprocal space, or of a scattering angle."""
        return any(mark in (self.unit or "").lower() for mark in _RECIPROCAL)


@dataclass(frozen=True)
class Layout:
    """The axes of one array, in the order of its dimensions, and which of them are the signal's."""

    axes: tuple[Axis, ...]
    signal: tuple[int, ...]
    navigation: tuple[int, ...]

    @classmethod
    def from_rosettasciio(cls, axes: Sequence[dict[str, Any]], shape: Sequence[int], signal_type: str) -> Self:
        """The layout of a signal with these `axes`; raises `ValueError` when they do not fit its shape."""
        if len(axes) != len(shape):
            raise ValueError(f"{len(axes)} axes describe an array of {len(shape)} dimensions")
        known = tuple(Axis.from_rosettasciio(axis, int(size)) for axis, size in zip(axes, shape, strict=True))
        signal = tuple(index for index, axis in enumerate(axes) if not axis.get("navigate"))
        spectral = tuple(index for index, axis in enumerate(known) if axis.spectral)
        if len(signal) != 1 and len(spectral) == 1 and signal_type.startswith(("EDS", "EELS")):
            # A spectrum image stored as a stack of maps: the energy is what each point of the map has a signal of.
            signal = spectral
        return cls(known, signal, tuple(index for index in range(len(shape)) if index not in signal))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _unit(value: Any) -> str | None:
    """The unit as text; RosettaSciIO says "not given" in several ways."""
    text = value.strip() if isinstance(value, str) else ""
    if text.endswith(")") and "(" in text:  # a quantity with its unit, as in the "Energy (EV)" of an msa file
        text = text[text.rindex("(") + 1 : -1].strip()
    if text.lower() in {"", "<undefined>", "px", "pixel", "pixels"}:
        return None
    return {"ev": "eV", "kev": "keV"}.get(text.lower(), text)
