"""What FEI's TIA program says about an acquisition, as labels with values and units; used by `ser` and `tif_titan`.

It stands in the `.emi` beside `.ser` files, once for each of them, and in private tags of tif files from Titan and
Tecnai microscopes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from lxml import etree

from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.own_values import own_values
from nexus_tasks.builder.readers.vocabulary import Meaning, Value, fact, in_order, sorted_out, text
from nexus_tasks.builder.readers.xml_text import leaves

MOST_BYTES = 64 * 1024 * 1024  # of an .emi that are searched; it may hold a whole spectrum before its description

_START, _END = b"<ObjectInfo>", b"</ObjectInfo>"

_MEANINGS = {
    "User": Meaning("Operator"),
    "High tension": Meaning("Acceleration Voltage", "kV"),
    "Magnification": Meaning("Magnification"),
    "Camera length": Meaning("Camera Length", "m"),
    "Emission": Meaning("Emission Current", "uA"),
    "Spot size": Meaning("Spot Size"),
    "Stem rotation": Meaning("Scan Rotation", "deg"),
    "Stage X": Meaning("Stage X", "um"),
    "Stage Y": Meaning("Stage Y", "um"),
    "Stage Z": Meaning("Stage Z", "um"),
    "Stage A": Meaning("Stage Alpha", "deg"),
    "Stage B": Meaning("Stage Beta", "deg"),
    "AcquireInfo.DwellTimePath": Meaning("Dwell Time", "s"),
    "AcquireInfo.IntegrationTimePath": Meaning("Exposure Time", "s"),
    "AcquireInfo.CameraNamePath": Meaning("Detector"),
}


@dataclass(frozen=True)
class Description:
    """What is known of one acquisition."""

    facts: tuple[Fact, ...]
    acquired: datetime | None  # by the microscope's clock, without zone
    mode: str  # as the program names it, for instance "STEM nP SA Zoom Diffraction"; empty when it says none
    by_camera: bool

    @property
    def reciprocal(self) -> bool:
        """Whether its pictures are diffraction patterns, as far as the mode tells."""
        return self.by_camera if "STEM" in self.mode else "Diffraction" in self.mode


UNKNOWN = Description((), None, "", by_camera=False)


def object_infos(emi: bytes) -> list[bytes]:
    """The descriptions inside an `.emi`, in the order of its `.ser` files."""
    found, position = [], emi.find(_START)
    while position >= 0:
        end = emi.find(_END, position)
        if end < 0:
            break
        found.append(emi[position : end + len(_END)])
        position = emi.find(_START, end)
    return found


def describe(root: etree._Element) -> Description:
    """Read a description: an `ObjectInfo`, or the `Root` with labels alone."""
    labelled = list(_labelled(root))
    others = [
        Value(one.name.removeprefix("ObjectInfo."), one.value, one.unit)
        for one in leaves(root)
        if "Root.Data." not in f".{one.name}" and not one.name.startswith(("Data.", "TrueImageHeaderInfo", "Uuid"))
    ]
    found, rest = sorted_out([*labelled, *others], _MEANINGS)
    said = {one.name: text(one.value) for one in rest}
    mode, microscope = said.get("Mode", ""), said.get("Microscope", "")
    camera = any(one.name == "AcquireInfo.CameraNamePath" for one in others)
    facts = in_order(
        [
            *found,
            fact("Microscope", microscope.removeprefix("Microscope ")),
            fact("Acquisition Mode", ("STEM" if "STEM" in mode else "TEM") if mode else None),
            fact(
                "Acceleration Voltage", said.get("ExperimentalConditions.MicroscopeConditions.AcceleratingVoltage"), "V"
            ),
        ]
    )
    already = {"Microscope", "AcquireDate", "AcquireInfo.Magnification"}
    kept = [one for one in rest if one.name not in already and not one.name.startswith("ExperimentalConditions")]
    return Description((*facts, *own_values("TIA", kept)), _moment(said.get("AcquireDate", "")), mode, camera)


def _labelled(root: etree._Element) -> Iterator[Value]:
    for data in root.iter("Data"):
        label, value, unit = (data.findtext(tag) for tag in ("Label", "Value", "Unit"))
        if label and value:
            yield Value(label.strip(), value.strip(), unit)


def _moment(date: str) -> datetime | None:
    try:
        return datetime.strptime(date, "%a %b %d %H:%M:%S %Y")  # noqa: DTZ007 the file names no zone
    except ValueError:
        return None
