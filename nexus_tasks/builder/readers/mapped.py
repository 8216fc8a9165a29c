"""From a signal's metadata to the facts of a dataset: pure, no RosettaSciIO import; used by `rosettasciio`.

RosettaSciIO leaves `metadata` nearly empty and hands over a `mapping` from `original_metadata` to it, for HyperSpy to
apply. The names and units of what it maps to are HyperSpy's metadata convention.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.layout import Axis, Layout

Tree = dict[str, Any]


LONGEST_TEXT = 500  # characters of one value; damaged files yield whole megabytes as a title


class _Known(NamedTuple):
    """A place below `Acquisition_instrument.<kind>`, and what it is called in a record."""

    path: str
    name: str
    unit: str | None = None
    zero_means_unset: bool = False  # acquisition programs write 0 for what they do not know


_INSTRUMENT = (
    _Known("microscope", "Microscope"),
    _Known("acquisition_mode", "Acquisition Mode"),
    _Known("beam_energy", "Acceleration Voltage", "kV", zero_means_unset=True),
    _Known("FIB.voltage_kV", "Acceleration Voltage", "kV", zero_means_unset=True),
    _Known("beam_current", "Beam Current", "nA", zero_means_unset=True),
    _Known("FIB.current_A", "Beam Current", "A", zero_means_unset=True),
    _Known("magnification", "Magnification", zero_means_unset=True),
    _Known("camera_length", "Camera Length", "mm", zero_means_unset=True),
    _Known("convergence_angle", "Convergence Angle", "mrad", zero_means_unset=True),
    _Known("working_distance", "Working Distance", "mm", zero_means_unset=True),
    _Known("dwell_time", "Dwell Time", "s", zero_means_unset=True),
    _Known("Camera.exposure", "Exposure Time", "s", zero_means_unset=True),
    _Known("Detector.Camera.exposure", "Exposure Time", "s", zero_means_unset=True),
    _Known("Detector.Camera.name", "Camera"),
    _Known("Detector.EDS.live_time", "EDS Live Time", "s", zero_means_unset=True),
    _Known("Detector.EDS.real_time", "EDS Real Time", "s", zero_means_unset=True),
    _Known("Detector.EDS.elevation_angle", "EDS Elevation Angle", "°"),
    _Known("Detector.EDS.azimuth_angle", "EDS Azimuth Angle", "°"),
    _Known("Detector.EDS.energy_resolution_MnKa", "EDS Energy Resolution", "eV", zero_means_unset=True),
    _Known("Detector.EELS.collection_angle", "EELS Collection Angle", "mrad", zero_means_unset=True),
    _Known("Detector.EELS.exposure", "EELS Exposure", "s", zero_means_unset=True),
    _Known("Detector.EELS.aperture_size", "EELS Aperture", "mm", zero_means_unset=True),
    _Known("ToF.ion_mode", "Ion Mode"),
)
_STAGE = (
    _Known("x", "Stage X", "length"),
    _Known("y", "Stage Y", "length"),
    _Known("z", "Stage Z", "length"),
    _Known("rotation", "Stage Rotation", "angle"),
    _Known("tilt", "Stage Tilt", "angle"),
    _Known("tilt_alpha", "Stage Alpha", "angle"),
    _Known("tilt_beta", "Stage Beta", "angle"),
)


def apply_mapping(signal: Mapping[str, Any]) -> Tree:
    """A signal's metadata with everything that its mapping finds in `original_metadata`.

    A value that its conversion does not understand is left out: the fact is then simply not known.
    """
    metadata = as_tree(signal.get("metadata") or {})
    original = as_tree(signal.get("original_metadata") or {})
    for source, (target, convert) in (signal.get("mapping") or {}).items():
        value = _find(original, source)
        if value is not None:
            value = _converted(value, convert)
        if value is not None:
            _put(metadata, target, value)
    return metadata


def as_tree(value: Any) -> Tree:
    """Nested plain dictionaries, whatever the reader's own kind is."""
    value = value.as_dictionary() if hasattr(value, "as_dictionary") else value
    value = value.to_dict() if hasattr(value, "to_dict") else value
    if not isinstance(value, Mapping):
        return {}
    return {
        str(key): as_tree(item) if isinstance(item, Mapping) or hasattr(item, "to_dict") else item
        for key, item in value.items()
    }


def acquired(metadata: Tree) -> datetime | None:
    """Date and time of acquisition, without zone unless the file names one; None when either is missing.

    A date alone is not enough: midnight would be invented.
    """
    general = metadata.get("General", {})
    date, time, zone = (str(general.get(key) or "").strip() for key in ("date", "time", "time_zone"))
    try:
        moment = datetime.fromisoformat(f"{date}T{time}")
    except ValueError:
        return None
    if moment.tzinfo is not None or not zone:
        return moment
    try:
        return datetime.fromisoformat(f"{date}T{time}{zone}")  # an offset such as -05:00
    except ValueError:
        pass
    try:
        return moment.replace(tzinfo=ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        return moment


def is_diffraction(metadata: Tree, layout: Layout) -> bool:
    """Whether a two-dimensional signal is one of reciprocal space, by its units or by the microscope's mode."""
    if any(layout.axes[index].reciprocal for index in layout.signal):
        return True
    for instrument in _instruments(metadata):
        mode = str(instrument.get("acquisition_mode") or "").upper()
        if "DIFFRACTION" in mode:
            return True
        # DigitalMicrograph's reader maps the camera length instead of the magnification in diffraction mode.
        if mode == "TEM" and instrument.get("camera_length") and not instrument.get("magnification"):
            return True
    return False


def facts(metadata: Tree, original: Tree, layout: Layout, value_type: str) -> tuple[Fact, ...]:
    """Everything known about a signal that a record shows, in a fixed order, each name once."""
    found = [*_general(metadata), *_dimensions(layout, value_type)]
    for instrument in _instruments(metadata):
        found += _listed(instrument, _INSTRUMENT)
        # The stage of an FEI tif is mapped as it stands in the file, in metres and radians; all others are converted.
        units = {"length": "m", "angle": "rad"} if "fei_metadata" in original else {"length": "mm", "angle": "°"}
        found += [fact_in(fact, units) for fact in _listed(instrument.get("Stage") or {}, _STAGE)]
    by_name: dict[str, Fact] = {}
    for fact in found:
        by_name.setdefault(fact.name, fact)
    return tuple(by_name.values())


def fact_in(fact: Fact, units: Mapping[str, str]) -> Fact:
    """The fact with its kind of unit replaced by the unit itself."""
    return Fact(fact.name, fact.value, units[fact.unit] if fact.unit else None)


def number(value: float) -> str:
    """A number as people write it: whole ones in full, others with six significant digits."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _general(metadata: Tree) -> list[Fact]:
    general, sample = metadata.get("General", {}), metadata.get("Sample", {})
    elements = sample.get("elements")
    texts = (
        ("Title", general.get("title")),
        ("Operator", general.get("authors")),
        ("Sample", sample.get("description")),
        ("Elements", ", ".join(map(str, elements)) if isinstance(elements, list | tuple) else None),
        ("Signal", metadata.get("Signal", {}).get("signal_type")),
        ("Quantity", metadata.get("Signal", {}).get("quantity")),
    )
    return [Fact(name, text) for name, value in texts if (text := _text(value))]


def _dimensions(layout: Layout, value_type: str) -> list[Fact]:
    # Width first, as people name the size of a picture; arrays have it last. Channels or frames' pixels come after.
    order = (*reversed(layout.navigation), *reversed(layout.signal))
    sizes = [str(layout.axes[index].size) for index in order]
    found = [Fact("Data Dimensions", " × ".join(sizes)), Fact("Data Type", value_type)]
    spatial = [axis for axis in layout.axes if axis.calibrated and not axis.spectral]
    found += _scales("Pixel Size", spatial)
    found += _scales("Channel Width", [axis for axis in layout.axes if axis.calibrated and axis.spectral])
    return found


def _scales(name: str, axes: list[Axis]) -> list[Fact]:
    """One fact where all axes agree, else one for each."""
    values = [(axis.name, *_readable(abs(axis.scale or 0.0), axis.unit)) for axis in axes]
    if len({(value, unit) for _, value, unit in values}) == 1:
        return [Fact(name, values[0][1], values[0][2])]
    return [Fact(f"{name} {axis or index}", value, unit) for index, (axis, value, unit) in enumerate(values)]


def _readable(value: float, unit: str | None) -> tuple[str, str | None]:
    """A length in metres as nanometres or micrometres; anything else as it is."""
    if unit == "m" and value < 1e-3:
        return (number(value * 1e9), "nm") if value < 1e-6 else (number(value * 1e6), "µm")
    return number(value), unit


def _instruments(metadata: Tree) -> list[Tree]:
    """What is known of the microscope: below TEM, SEM or another kind, in one place of the tree."""
    instruments = metadata.get("Acquisition_instrument", {})
    return [instrument for instrument in instruments.values() if isinstance(instrument, dict)]


def _listed(tree: Tree, known: tuple[_Known, ...]) -> list[Fact]:
    found = []
    for entry in known:
        text = _text(_find(tree, entry.path))
        if text and not (entry.zero_means_unset and text in {"0", "-0"}):
            found.append(Fact(entry.name, text, entry.unit))
    return found


def _text(value: Any) -> str:
    """A value as text, empty for what says nothing."""
    if value is None or isinstance(value, Mapping | list | tuple | bytes):
        return ""
    try:
        as_number = float(value)
    except (TypeError, ValueError):
        return " ".join(str(value)[:LONGEST_TEXT].split())
    if isinstance(value, bool):
        return str(value)
    return number(as_number) if math.isfinite(as_number) else ""


def _find(tree: Any, path: str) -> Any:
    """The value at a dotted path; keys match with everything but letters and digits written as underscores."""
    for key in path.split("."):
        if not isinstance(tree, dict):
            return None
        if key in tree:
            tree = tree[key]
            continue
        tree = next((item for name, item in tree.items() if _slug(name) == _slug(key)), None)
    return tree


def _slug(key: str) -> str:
    return re.sub(r"\W+", "_", key).strip("_")


def _converted(value: Any, convert: Callable[[Any], Any] | None) -> Any:
    if convert is None:
        return value
    try:
        return convert(value)
    except Exception:  # noqa: BLE001 the readers' conversions raise whatever odd metadata makes them raise
        return None


def _put(tree: Tree, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        below = tree.get(key)
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    tree[last] = value
