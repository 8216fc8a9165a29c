"""What RosettaSciIO's mapping leaves behind in `original_metadata`, program by program; used by `rosettasciio`.

Facts that the vocabulary has a word for, the vendor's own values, and a better date where there is one. Pure: no
RosettaSciIO import.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import mapped
from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.dates import local_moment
from nexus_tasks.builder.readers.mapped import Tree
from nexus_tasks.builder.readers.own_values import own_values
from nexus_tasks.builder.readers.vocabulary import Meaning, Value, as_number, meant

MOST_LEAVES = 20_000  # of one tree that are looked at; a spectrum image may list a value for each of its pixels


@dataclass(frozen=True)
class _Program:
    """How one program's tree is read; paths are dotted, with keys as in `mapped.find`."""

    vendor: str  # before its own values
    meanings: Mapping[str, Meaning] = field(default_factory=dict)  # the first path that is there counts for a name
    roots: tuple[str, ...] = ("",)  # where the values lie that somebody may ask for
    prefix: str = ""  # left out of the names of its own values
    noise: re.Pattern[str] = re.compile("(?!)")  # values that nobody will ask for, or that facts say already


_TAGS = "ImageList.TagGroup0.ImageTags."
_DIGITALMICROGRAPH = _Program(
    "DigitalMicrograph",
    {
        _TAGS + "Microscope Info.Microscope": Meaning("Microscope"),
        _TAGS + "Microscope Info.Name": Meaning("Microscope"),
        _TAGS + "Session Info.Microscope": Meaning("Microscope"),
        _TAGS + "Microscope Info.Operator": Meaning("Operator"),
        _TAGS + "Microscope Info.Specimen": Meaning("Sample"),
        _TAGS + "GMS Version.Created": Meaning("Software", of="DigitalMicrograph"),
        _TAGS + "DataBar.Signal Name": Meaning("Detector"),
        _TAGS + "DataBar.Device Name": Meaning("Detector"),
        _TAGS + "Acquisition.Device.Name": Meaning("Detector"),
        _TAGS + "DataBar.Exposure Time (s)": Meaning("Exposure Time", "s"),
        _TAGS + "Microscope Info.Emission Current (µA)": Meaning("Emission Current", "µA"),
        _TAGS + "Microscope Info.Field of View (µm)": Meaning("Field of View", "µm"),
        _TAGS + "Microscope Info.Probe Size (nm)": Meaning("Spot Size", "nm"),
        _TAGS + "DigiScan.Rotation": Meaning("Scan Rotation", "°"),
    },
    tuple(
        _TAGS + name
        for name in (
            "Microscope Info",
            "Session Info",
            "DataBar",
            "EELS",
            "EDS.Acquisition",
            "SI.Acquisition",
            "Acquisition.Device",
            "Acquisition.Parameters.High Level",
            "DigiScan",
        )
    ),
    _TAGS,
    re.compile(r"TagGroup\d|\.(Lens|Deflector|Transpose|Transform)\.|Class Name|Mask$|Formatted|\(OS\)|System Info"),
)
_FEI = _Program(
    "FEI",
    {
        "fei_metadata.System.Software": Meaning("Software", of="xT"),
        "fei_metadata.Detectors.Name": Meaning("Detector"),
        "fei_metadata.EBeam.HFW": Meaning("Field of View", "m"),
        "fei_metadata.IBeam.HFW": Meaning("Field of View", "m"),
        "fei_metadata.Beam.Spot": Meaning("Spot Size"),
        "fei_metadata.EBeam.EmissionCurrent": Meaning("Emission Current", "A"),
        "fei_metadata.IBeam.EmissionCurrent": Meaning("Emission Current", "A"),
        "fei_metadata.IBeam.BeamCurrent": Meaning("Beam Current", "A"),
        "fei_metadata.Beam.ScanRotation": Meaning("Scan Rotation", "rad"),
        "fei_metadata.Vacuum.ChPressure": Meaning("Chamber Pressure", "Pa"),
    },
    tuple(
        "fei_metadata" + name
        for name in (".User", ".System", ".Detectors", ".Vacuum", ".Specimen", ".Image", ".Scan", ".Beam", "")
    ),
    "fei_metadata.",
    re.compile(r"\.(Stage\w*|HV|HFW|VFW|WD|ScanRotation|\w+Unicode|DataBar\w*|Beam|Scan|Acq)$|\.EScan\."),
)
_ZEISS = _Program(
    "Zeiss",
    {
        "CZ_SEM.sv_version": Meaning("Software"),
        "CZ_SEM.dp_detector_channel": Meaning("Detector"),
        "CZ_SEM.ap_width": Meaning("Field of View"),
        "CZ_SEM.ap_spot": Meaning("Spot Size"),
        "CZ_SEM.ap_scanrotation": Meaning("Scan Rotation"),
    },
    ("CZ_SEM",),
    "CZ_SEM.",
)
_VELOX = _Program(
    "Velox",
    {
        "Instrument.InstrumentModel": Meaning("Microscope"),
        "Instrument.InstrumentClass": Meaning("Microscope"),
        "Instrument.ControlSoftwareVersion": Meaning("Software"),
        "BinaryResult.Detector": Meaning("Detector"),
        "Optics.SpotIndex": Meaning("Spot Size"),
        "Optics.FullScanFieldOfView.x": Meaning("Field of View", "m"),
        "Optics.BeamConvergence": Meaning("Convergence Angle", "rad"),
        "Scan.DwellTime": Meaning("Dwell Time", "s"),
        "Scan.ScanRotation": Meaning("Scan Rotation", "rad"),
    },
    ("Optics", "Scan", "Acquisition", "Instrument", "Stage", "BinaryResult", "EnergyFilter", "Detectors"),
)
_MSA = _Program(
    "MSA",
    {
        "EDAX Detector": Meaning("Detector"),
        "RESO (MnKa)": Meaning("EDS Energy Resolution", "eV"),
        "Tilt Angle": Meaning("Stage Tilt", "°"),
    },
    # The keywords of the format itself, which RosettaSciIO does understand, apart from texts.
    noise=re.compile(
        "(FORMAT|VERSION|DATE|TIME|N?POINTS|NCOLUMNS|DATATYPE|XPERCHAN|(CH)?OFFSET|[XY](UNITS|LABEL)|SIGNALTYPE"
        "|BEAMKV|LIVETIME|REALTIME|ELEVANGLE|AZIMANGLE)\\b"
    ),
)


@dataclass(frozen=True)
class Original:
    """What a program wrote beyond the mapping."""

    facts: tuple[Fact, ...]
    own: tuple[Fact, ...]
    acquired: datetime | None  # None where the mapping's own is the best


def read_original(plugin: str, signal: Mapping[str, Any], file: DataFile) -> Original:
    """All of it for one signal that the RosettaSciIO plugin of this name has read."""
    tree = mapped.as_tree(signal.get("original_metadata") or {})
    program = _program(plugin, tree)
    found = []
    for path, meaning in program.meanings.items():
        one = _value(meaning.name, mapped.find(tree, path))
        if one is not None:
            found.append(meant(meaning, one))
    used = mapped.mapped_sources(signal) | {mapped.slug(path) for path in program.meanings}
    own = own_values(program.vendor, _leaves(tree, program, used))
    return Original(tuple(one for one in found if one is not None), own, _acquired(plugin, signal, tree, file))


def _program(plugin: str, tree: Tree) -> _Program:
    if plugin == "TIFF":
        return _FEI if "fei_metadata" in tree else _ZEISS if "CZ_SEM" in tree else _Program("TIFF")
    if plugin == "EMD" and "Optics" in tree:
        return _VELOX
    return {
        "DigitalMicrograph": _DIGITALMICROGRAPH,
        "MSA": _MSA,
        # What stands in these headers is in the facts, or is about the file itself.
        "EDAX": _Program("EDAX", noise=re.compile("spc_header|spd_header")),
        "MRC": _Program("MRC", noise=re.compile("std_header")),
    }.get(plugin, _Program(plugin))


def _leaves(tree: Tree, program: _Program, used: frozenset[str]) -> Iterator[Value]:
    """Every single value below the program's roots that no fact says already."""
    seen = 0
    for root in program.roots:
        waiting = [(root, mapped.find(tree, root) if root else tree)]
        while waiting and seen < MOST_LEAVES:
            path, item = waiting.pop()
            if isinstance(item, dict):
                below = [(f"{path}.{key}" if path else key, value) for key, value in item.items()]
                waiting += reversed(below)
                continue
            seen += 1
            name = path.removeprefix(program.prefix)
            if mapped.slug(path) in used or program.noise.search(name):
                continue
            if (one := _value(name, item)) is not None:
                yield one


def _value(name: str, item: Any) -> Value | None:
    """One value; Zeiss's come as (label, value, unit)."""
    if isinstance(item, tuple) and len(item) in {2, 3} and isinstance(item[0], str):
        return Value(item[0] or name, item[1], str(item[2]) if len(item) == 3 else None)
    if item is None or isinstance(item, list | tuple | bytes | Mapping) or getattr(item, "shape", None):
        return None
    return Value(name, item.item() if hasattr(item, "item") else item)


def _acquired(plugin: str, signal: Mapping[str, Any], tree: Tree, file: DataFile) -> datetime | None:
    if plugin == "EDAX":
        return _edax_moment(file)
    # The one date in an FEI tif that is the same in all languages.
    date, _, time = str(mapped.find(tree, "fei_metadata.PrivateFei.TimeOfCreation") or "").partition(" ")
    near = file.mtime
    started = as_number(mapped.find(tree, _TAGS + "Acquisition.Frame.Sequence.Acquisition Start Time (epoch)"))
    if started is not None and 0 < started < 4e12:  # milliseconds, in UTC: enough to tell May from June
        near = datetime.fromtimestamp(started / 1000, UTC)
    return local_moment(date, time, near) or mapped.acquired_as_written(signal, near)


def _edax_moment(file: DataFile) -> datetime | None:
    """When a spectrum was collected: EDAX keeps year, day, month, minute and hour in the header of an `.spc`."""
    if file.path.suffix.lower() != ".spc":
        return None
    with file.path.open("rb") as stream:
        header = stream.read(22)
    try:
        year, day, month, minute, hour = struct.unpack_from("<hbbbb", header, 16)
        return datetime(year, month, day, hour, minute)  # noqa: DTZ001 the file names no zone
    except (struct.error, ValueError):
        return None
