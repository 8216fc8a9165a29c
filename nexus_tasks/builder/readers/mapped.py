"""From a signal's metadata to the facts of a dataset: pure, no RosettaSciIO import; used by `rosettasciio`.

RosettaSciIO leaves `metadata` nearly empty and hands over a `mapping` from `original_metadata` to it, for HyperSpy to
apply. The names and units of what it maps to are HyperSpy's metadata convention.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.dates import local_moment
from nexus_tasks.builder.readers.layout import Layout
from nexus_tasks.builder.readers.vocabulary import Meaning, alike, as_number, fact

Tree = dict[str, Any]


class _Known(NamedTuple):
    """A place below `Acquisition_instrument.<kind>`, and what it means."""

    path: str
    meaning: Meaning


_INSTRUMENT = (
    _Known("microscope", Meaning("Microscope")),
    _Known("acquisition_mode", Meaning("Acquisition Mode")),
    _Known("beam_energy", Meaning("Acceleration Voltage", "kV")),
    _Known("FIB.voltage_kV", Meaning("Acceleration Voltage", "kV")),
    _Known("beam_current", Meaning("Beam Current", "nA")),
    _Known("FIB.current_A", Meaning("Beam Current", "A")),
    _Known("FIB.view_field_mm", Meaning("Field of View", "mm")),
    _Known("chamber_pressure_Pa", Meaning("Chamber Pressure", "Pa")),
    _Known("magnification", Meaning("Magnification")),
    _Known("camera_length", Meaning("Camera Length", "mm")),
    _Known("convergence_angle", Meaning("Convergence Angle", "mrad")),
    _Known("working_distance", Meaning("Working Distance", "mm")),
    _Known("dwell_time", Meaning("Dwell Time", "s")),
    _Known("Camera.exposure", Meaning("Exposure Time", "s")),
    _Known("Detector.Camera.exposure", Meaning("Exposure Time", "s")),
    _Known("Detector.Camera.name", Meaning("Detector")),
    _Known("Detector.Camera.Name", Meaning("Detector")),
    _Known("Detector.detector_type", Meaning("Detector")),
    _Known("Detector.EDS.live_time", Meaning("EDS Live Time", "s")),
    _Known("Detector.EDS.real_time", Meaning("EDS Real Time", "s")),
    _Known("Detector.EDS.elevation_angle", Meaning("EDS Elevation Angle", "°")),
    _Known("Detector.EDS.azimuth_angle", Meaning("EDS Azimuth Angle", "°")),
    _Known("Detector.EDS.energy_resolution_MnKa", Meaning("EDS Energy Resolution", "eV")),
    _Known("Detector.EELS.collection_angle", Meaning("EELS Collection Angle", "mrad")),
    _Known("Detector.EELS.exposure", Meaning("EELS Exposure", "s")),
    _Known("Detector.EELS.aperture_size", Meaning("EELS Aperture", "mm")),
    _Known("ToF.ion_mode", Meaning("Ion Mode")),
    _Known("Stage.x", Meaning("Stage X", "mm")),
    _Known("Stage.y", Meaning("Stage Y", "mm")),
    _Known("Stage.z", Meaning("Stage Z", "mm")),
    _Known("Stage.rotation", Meaning("Stage Rotation", "°")),
    _Known("Stage.tilt", Meaning("Stage Tilt", "°")),
    _Known("Stage.tilt_alpha", Meaning("Stage Alpha", "°")),
    _Known("Stage.tilt_beta", Meaning("Stage Beta", "°")),
)

_POSITION = ("Stage.x", "Stage.y", "Stage.z")
_TILT = ("Stage.rotation", "Stage.tilt", "Stage.tilt_alpha", "Stage.tilt_beta")
_UNKNOWN = "?"

# What a plugin of RosettaSciIO maps as it stands in the file, in other units than the convention's.
_UNITS: Mapping[str, Mapping[str, str]] = {
    "Blockfile": {"camera_length": "m"},
    "Bruker": dict.fromkeys(_POSITION, "µm"),
    "EMD": {**dict.fromkeys(_POSITION, "m"), "Detector.EDS.elevation_angle": "rad"},  # Velox
    "MRC": dict.fromkeys(_POSITION, "m"),
    "MSA": {"Detector.EELS.exposure": "ms"},
    "PantaRhei": {"camera_length": "m"},
    "TVIPS": dict.fromkeys((*_POSITION, *_TILT, "beam_current"), _UNKNOWN),
}
_FEI_TIF = {**dict.fromkeys(_POSITION, "m"), **dict.fromkeys(_TILT, "rad")}

# What a plugin says of the zone is not what the file says: Phenom's files name none, and Delmic's times are in UTC.
_ZONES = {"Phenom": "", "Delmic": "UTC"}


def apply_mapping(signal: Mapping[str, Any]) -> Tree:
    """A signal's metadata with everything that its mapping finds in `original_metadata`.

    A value that its conversion does not understand is left out: the fact is then simply not known.
    """
    metadata = as_tree(signal.get("metadata") or {})
    original = as_tree(signal.get("original_metadata") or {})
    for source, (target, convert) in _mapping(signal).items():
        value = find(original, source)
        if value is not None:
            value = _converted(value, convert)
        if value is not None:
            _put(metadata, target, value)
    return metadata


def mapped_sources(signal: Mapping[str, Any]) -> frozenset[str]:
    """The places in `original_metadata` that the mapping reads, as keys are compared (see `find`)."""
    return frozenset(slug(source) for source in _mapping(signal))


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


def acquired(metadata: Tree, plugin: str) -> datetime | None:
    """Date and time of acquisition, without zone unless the file names one; None when either is missing.

    A date alone is not enough: midnight would be invented.
    """
    general = metadata.get("General", {})
    date, time, zone = (str(general.get(key) or "").strip() for key in ("date", "time", "time_zone"))
    zone = _ZONES.get(plugin, zone)
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


def acquired_as_written(signal: Mapping[str, Any], near: datetime) -> datetime | None:
    """Date and time as the file's own texts give them, where the mapping says which these are.

    The mapping takes every date to be American if it can be one; see `dates`.
    """
    original = as_tree(signal.get("original_metadata") or {})
    texts = {
        target: value
        for source, (target, _) in _mapping(signal).items()
        if target in {"General.date", "General.time"} and isinstance(value := find(original, source), str)
    }
    return local_moment(texts.get("General.date", ""), texts.get("General.time", ""), near)


def is_diffraction(metadata: Tree, layout: Layout) -> bool:
    """Whether a two-dimensional signal is one of reciprocal space, by its units or by the microscope's mode."""
    if any(layout.axes[index].reciprocal for index in layout.signal):
        return True
    for instrument in _instruments(metadata).values():
        mode = str(instrument.get("acquisition_mode") or "").upper()
        if "DIFFRACTION" in mode:
            return True
        # DigitalMicrograph's reader maps the camera length instead of the magnification in diffraction mode.
        if mode == "TEM" and instrument.get("camera_length") and not instrument.get("magnification"):
            return True
    return False


def facts(metadata: Tree, original: Tree, plugin: str) -> list[Fact]:
    """Everything that HyperSpy's convention has a place for, apart from the axes; `plugin` is who has mapped it."""
    units = _FEI_TIF if "fei_metadata" in original else _UNITS.get(plugin, {})
    found = _general(metadata)
    for kind, instrument in _instruments(metadata).items():
        listed = _listed(instrument, units)
        if kind == "SEM":  # it tilts about one axis, and has no other name for it
            listed = [replace(one, name="Stage Tilt") if one.name == "Stage Alpha" else one for one in listed]
        found += listed
    return found


def find(tree: Any, path: str) -> Any:
    """The value at a dotted path; keys match with everything but letters and digits written as underscores."""
    for key in path.split("."):
        if not isinstance(tree, dict):
            return None
        if key in tree:
            tree = tree[key]
            continue
        tree = next((item for name, item in tree.items() if slug(name) == slug(key)), None)
    return tree


def slug(key: str) -> str:
    """A key or path as it is compared."""
    return re.sub(r"\W+", "_", key).strip("_")


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
    return [made for name, value in texts if (made := fact(name, value)) is not None]


def _instruments(metadata: Tree) -> dict[str, Tree]:
    """What is known of the microscope, by its kind: TEM, SEM or another."""
    instruments = metadata.get("Acquisition_instrument", {})
    return {kind: instrument for kind, instrument in instruments.items() if isinstance(instrument, dict)}


def _listed(instrument: Tree, units: Mapping[str, str]) -> list[Fact]:
    found = []
    for path, meaning in _INSTRUMENT:
        value, unit = _first(find(instrument, path)), units.get(path, meaning.unit)
        named = find(instrument, f"{path}_units")
        if isinstance(named, str) and alike(named, meaning.unit):
            unit = named
        elif unit == "m" and path in _POSITION and abs(as_number(value) or 0) > 1:
            unit = "µm"  # as the description of the extended MRC header says; no stage is a metre off
        made = fact(meaning.name, value, unit) if unit != _UNKNOWN else None
        if made is not None:
            found.append(made)
    return found


def _first(value: Any) -> Any:
    """The first of an array: the extended header of an MRC file gives each value for each of its pictures."""
    if getattr(value, "shape", ()) and hasattr(value, "flat"):
        return next(iter(value.flat), None)
    return value


def _mapping(signal: Mapping[str, Any]) -> Mapping[str, tuple[str, Callable[[Any], Any] | None]]:
    """The entries that say where to: a reader of RosettaSciIO leaves a place empty under some conditions."""
    return {source: entry for source, entry in (signal.get("mapping") or {}).items() if entry is not None}


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
