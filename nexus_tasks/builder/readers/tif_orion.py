"""What the program of Zeiss's Orion helium microscopes writes: XML with values and units in tag 65000."""

from datetime import datetime

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.dates import local_moment
from nexus_tasks.builder.readers.own_values import own_values
from nexus_tasks.builder.readers.tif_acquisition import Tags, TifAcquisition
from nexus_tasks.builder.readers.vocabulary import Meaning, Value, as_number, in_order, sorted_out
from nexus_tasks.builder.readers.xml_text import parse_xml

TAG = 65000

_MEANINGS = {
    "System.Model": Meaning("Microscope"),
    "AccelerationVoltage": Meaning("Acceleration Voltage", "V"),
    "Magnification4x5": Meaning("Magnification"),
    "WorkingDistance": Meaning("Working Distance", "mm"),
    "Fov": Meaning("Field of View", "um"),
    "GFIS.BeamCurrent": Meaning("Beam Current", "pA"),
    "BlankerCurrent": Meaning("Beam Current", "pA"),
    "SpotNumber": Meaning("Spot Size"),
    "DetectorName": Meaning("Detector"),
    "ColumnMode": Meaning("Acquisition Mode"),
    "DwellTime": Meaning("Dwell Time", "uSec"),
    "ScanRotate": Meaning("Scan Rotation", "deg"),
    "ScalingX": Meaning("Pixel Size", "m"),
    "StageX": Meaning("Stage X", "um"),
    "StageY": Meaning("Stage Y", "um"),
    "StageZ": Meaning("Stage Z", "mm"),
    "StageTilt": Meaning("Stage Tilt", "deg"),
    "StageRotate": Meaning("Stage Rotation", "deg"),
    "ChamberPressure": Meaning("Chamber Pressure", "Torr"),
}


def acquisition(tags: Tags, file: DataFile) -> TifAcquisition | None:
    """What the tag says; None when it is not there, or is another program's tag of the same number."""
    root = parse_xml(tags.document(TAG))
    if root is None or root.tag != "ImageTags":
        return None
    values = [
        Value(str(element.tag), value, element.findtext("Units"))
        for element in root
        if (value := (element.findtext("Value") or "").strip())
    ]
    found, others = sorted_out(values, _MEANINGS)
    said = {one.name: one.value for one in values}
    down, across = as_number(said.get("ScalingY")), as_number(said.get("ScalingX"))
    return TifAcquisition(
        "Orion",
        (*in_order(found), *own_values("Orion", others)),
        _moment(str(said.get("TimeStamp", "")), file),
        (down, across) if down and across else None,
    )


def _moment(text: str, file: DataFile) -> datetime | None:
    date, _, time = text.partition(" ")
    return local_moment(date, time, file.mtime)
