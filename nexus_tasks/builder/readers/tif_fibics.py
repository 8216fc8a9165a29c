"""What Fibics' NPVE and Atlas programs write: XML in tag 51023."""

from datetime import datetime

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.own_values import own_values
from nexus_tasks.builder.readers.tif_acquisition import Tags, TifAcquisition
from nexus_tasks.builder.readers.vocabulary import Meaning, as_number, fact, in_order, sorted_out
from nexus_tasks.builder.readers.xml_text import leaves, parse_xml

TAG = 51023

_MEANINGS = {
    "Application.Version": Meaning("Software"),
    "Image.Beam": Meaning("Microscope"),
    "Image.Detector": Meaning("Detector"),
    "Scan.Dwell": Meaning("Dwell Time", "ns"),
    "Scan.FOV_X": Meaning("Field of View", "um"),
    "Scan.ScanRot": Meaning("Scan Rotation", "deg"),
    "Stage.X": Meaning("Stage X", "um"),
    "Stage.Y": Meaning("Stage Y", "um"),
    "Stage.Z": Meaning("Stage Z", "um"),
    "Stage.Tilt": Meaning("Stage Tilt", "deg"),
    "Stage.Rot": Meaning("Stage Rotation", "deg"),
    "BeamInfo.AccV": Meaning("Acceleration Voltage", "V"),
    "BeamInfo.WD": Meaning("Working Distance", "m"),
}


def acquisition(tags: Tags, _file: DataFile) -> TifAcquisition | None:
    """What the tag says; None when it is not there."""
    root = parse_xml(tags.document(TAG))
    if root is None or root.tag != "Fibics":
        return None
    values = list(leaves(root))
    found, others = sorted_out(values, _MEANINGS)
    said = {one.name: one.value for one in values}
    # The vectors from one pixel to the next, in µm: their lengths are the size of a pixel, however the scan is rotated.
    across, down = (
        ((as_number(said.get(f"Scan.{vector}x")) or 0.0) ** 2 + (as_number(said.get(f"Scan.{vector}y")) or 0.0) ** 2)
        ** 0.5
        for vector in "UV"
    )
    facts = (*in_order([*found, fact("Software", tags.line(305))]), *own_values("Fibics", others))
    pixel_size = (down * 1e-6, across * 1e-6) if across and down else None
    return TifAcquisition("Fibics", facts, _moment(str(said.get("Application.Date", ""))), pixel_size)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)  # with its zone
    except ValueError:
        return None
