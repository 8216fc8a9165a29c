"""The names and units of facts, the same whichever program wrote the file; every reader makes its facts here.

What the vocabulary has no word for is kept under the vendor's own name: `own_values`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from nexus_tasks.builder.readers.base import Fact

LONGEST_TEXT = 500  # characters of one value; damaged files yield whole megabytes as a title

# Every name, in the order in which a record shows them, with the unit of its values. Lengths, times and angles that
# files give in other units are converted; a value whose unit is of another kind (a spot size may be a number or a
# length) keeps its own.
UNITS: Mapping[str, str | None] = {
    "Title": None,
    "Text": None,
    "Operator": None,
    "Sample": None,
    "Elements": None,
    "Signal": None,
    "Quantity": None,
    "Data Dimensions": None,
    "Data Type": None,
    "Colour Mode": None,
    "Pixel Size": "nm",
    "Scan Step": "nm",
    "Channel Width": "eV",
    "Field of View": "µm",
    "Microscope": None,
    "Software": None,
    "Detector": None,
    "Acquisition Mode": None,
    "Acceleration Voltage": "kV",
    "Magnification": None,
    "Camera Length": "mm",
    "Working Distance": "mm",
    "Beam Current": "nA",
    "Emission Current": "µA",
    "Spot Size": "nm",
    "Convergence Angle": "mrad",
    "Scan Rotation": "°",
    "Dwell Time": "µs",
    "Exposure Time": "s",
    "Stage X": "mm",
    "Stage Y": "mm",
    "Stage Z": "mm",
    "Stage Rotation": "°",
    "Stage Tilt": "°",
    "Stage Alpha": "°",
    "Stage Beta": "°",
    "Chamber Pressure": "Pa",
    "EDS Live Time": "s",
    "EDS Real Time": "s",
    "EDS Elevation Angle": "°",
    "EDS Azimuth Angle": "°",
    "EDS Energy Resolution": "eV",
    "EELS Collection Angle": "mrad",
    "EELS Exposure": "s",
    "EELS Aperture": "mm",
    "Ion Mode": None,
}

_PLAIN_NUMBERS = {"Magnification"}

# Acquisition programs write 0 for what they do not know; a stage, a rotation or an angle may well be at 0.
_ZERO_SAYS_NOTHING = {
    "Acceleration Voltage",
    "Magnification",
    "Camera Length",
    "Working Distance",
    "Beam Current",
    "Emission Current",
    "Spot Size",
    "Convergence Angle",
    "Field of View",
    "Pixel Size",
    "Dwell Time",
    "Exposure Time",
    "EDS Live Time",
    "EDS Real Time",
    "EDS Energy Resolution",
    "EELS Collection Angle",
    "EELS Exposure",
    "EELS Aperture",
    "Chamber Pressure",
    "Scan Step",
    "Channel Width",
}

_PLACES = {name: place for place, name in enumerate(UNITS)}
_PREFIXES = {"p": 1e-12, "n": 1e-9, "µ": 1e-6, "u": 1e-6, "μ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6}
_PREFIXED = ("V", "A", "m", "s", "Pa", "eV", "rad")
_SCALES: dict[str, tuple[str, float]] = {  # unit: its kind, and how much of the kind's base unit it is
    **{prefix + unit: (unit, scale) for unit in _PREFIXED for prefix, scale in _PREFIXES.items()},
    "Å": ("m", 1e-10),
    "cm": ("m", 1e-2),
    "°": ("rad", math.pi / 180),
    "Torr": ("Pa", 133.322368),
    "mbar": ("Pa", 100.0),
}
# As programs spell them.
_SPELLINGS = {
    "volts": "V",
    "kilovolts": "kV",
    "picoamps": "pA",
    "microns": "µm",
    "um": "µm",
    "millimeters": "mm",
    "meters": "m",
    "usec": "µs",
    "ms": "ms",
    "degrees": "°",
    "degree": "°",
    "deg": "°",
    "dg": "°",
    "torr": "Torr",
    "kelvin": "K",
    "percent": "%",
    "angstrom": "Å",
    "ev": "eV",
    "kev": "keV",
}
_NO_UNIT = {"", "unitless", "none", "<undefined>", "px", "pixel", "pixels", "x"}


class Value(NamedTuple):
    """One value as a program wrote it, under the program's own name."""

    name: str
    value: Any
    unit: str | None = None


class Meaning(NamedTuple):
    """What a program's value is called in the vocabulary."""

    name: str
    unit: str | None = None  # of the value, where the file does not say
    of: str = ""  # stands before the value: the version "3.60" is one of some program


def fact(name: str, value: Any, unit: str | None = None) -> Fact | None:
    """The fact that `name` is `value` (a number in `unit`, or text), in the vocabulary's unit.

    None for a value that says nothing: empty, not finite, or 0 where programs write that for "not known".
    """
    number_ = as_number(value)
    wanted = UNITS.get(name)
    is_text = isinstance(value, str) and wanted is None and name not in _PLAIN_NUMBERS  # version 3.60, sample 007
    if number_ is None or is_text:
        written = text(value)
        return Fact(name, written) if written else None
    if number_ == 0 and name in _ZERO_SAYS_NOTHING:
        return None
    if alike(unit, wanted):
        number_ *= _SCALES[spelled(unit) or ""][1] / _SCALES[wanted or ""][1]
        unit = wanted
    return Fact(name, number(number_), spelled(unit))


def alike(unit: str | None, other: str | None) -> bool:
    """Whether values in one unit can be given in the other, because both are lengths, or times."""
    kinds = [known and known[0] for known in (_SCALES.get(spelled(one) or "") for one in (unit, other))]
    return kinds[0] is not None and kinds[0] == kinds[1]


def sorted_out(values: Iterable[Value], meanings: Mapping[str, Meaning]) -> tuple[list[Fact], list[Value]]:
    """The facts that `meanings` finds among a program's values, and the values that it has no word for."""
    found, others = list[Fact](), list[Value]()
    for one in values:
        meaning = meanings.get(one.name)
        if meaning is None:
            others.append(one)
        elif (made := meant(meaning, one)) is not None:
            found.append(made)
    return found, others


def meant(meaning: Meaning, one: Value) -> Fact | None:
    """The fact that a program's value is; None for one that says nothing."""
    made = fact(meaning.name, one.value, one.unit or meaning.unit)
    return Fact(made.name, f"{meaning.of} {made.value}", made.unit) if made and meaning.of else made


def in_order(facts: Iterable[Fact | None]) -> tuple[Fact, ...]:
    """Each name once, the first that was found, in the vocabulary's order; others follow in their own."""
    by_name: dict[str, Fact] = {}
    for one in facts:
        if one is not None:
            by_name.setdefault(one.name, one)
    return tuple(sorted(by_name.values(), key=lambda one: _place(one.name)))


def spelled(unit: str | None) -> str | None:
    """A unit in its usual spelling; None for the many ways to say that there is none."""
    unit = (unit or "").strip().replace("μ", "µ")  # the Greek letter looks like the sign, and is another character
    if unit.lower() in _NO_UNIT:
        return None
    return unit if unit in _SCALES and not unit.startswith("u") else _SPELLINGS.get(unit.lower(), unit)


def number(value: float) -> str:
    """A number as people write it: whole ones in full, others with six significant digits."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def as_number(value: Any) -> float | None:
    """A finite number, or a text that is one; None for everything else, truth values included."""
    if value is None or isinstance(value, bool | bytes | Mapping | list | tuple):
        return None
    try:
        made = float(value)
    except (TypeError, ValueError):
        return None
    return made if math.isfinite(made) else None


def text(value: Any) -> str:
    """A value as one line of text, empty for what says nothing."""
    if value is None or isinstance(value, Mapping | list | tuple | bytes):
        return ""
    if isinstance(value, str):
        return " ".join(value[:LONGEST_TEXT].split())
    try:
        is_number = math.isfinite(float(value))
    except (TypeError, ValueError):
        return " ".join(str(value)[:LONGEST_TEXT].split())
    if isinstance(value, bool):
        return str(value)
    return number(float(value)) if is_number else ""


def _place(name: str) -> int:
    """Where a name belongs; "Pixel Size x" stands with "Pixel Size"."""
    return _PLACES.get(name, _PLACES.get(name.rpartition(" ")[0], len(_PLACES)))
