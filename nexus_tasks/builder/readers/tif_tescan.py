"""What Tescan's programs write: lines "Key=value" in tag 50431, and the same in a `.hdr` file beside the tif."""

import struct
from collections.abc import Iterator
from pathlib import Path

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.own_values import own_values
from nexus_tasks.builder.readers.tif_acquisition import Tags, TifAcquisition
from nexus_tasks.builder.readers.vocabulary import Meaning, Value, as_number, fact, in_order, sorted_out

TAG = 50431
MOST_BYTES = 1024 * 1024  # of a .hdr; real ones have 2 kB

_BLOCK = struct.Struct("<IH")  # the tag holds blocks, each with its length and kind before it
_PICTURE_BLOCK = 1  # a small copy of the image; the others are text, one for each section of the .hdr

_MEANINGS = {
    "Device": Meaning("Microscope"),
    "FullUserName": Meaning("Operator"),
    "UserName": Meaning("Operator"),
    "SoftwareVersion": Meaning("Software"),
    "HV": Meaning("Acceleration Voltage", "V"),
    "AcceleratorVoltage": Meaning("Acceleration Voltage", "V"),
    "Magnification": Meaning("Magnification"),
    "WD": Meaning("Working Distance", "m"),
    "Detector": Meaning("Detector"),
    "DwellTime": Meaning("Dwell Time", "s"),
    "PredictedBeamCurrent": Meaning("Beam Current", "A"),
    "EmissionCurrent": Meaning("Emission Current", "A"),
    "SpotSize": Meaning("Spot Size", "m"),
    "ScanMode": Meaning("Acquisition Mode"),
    "ScanRotation": Meaning("Scan Rotation", "deg"),
    "PixelSizeX": Meaning("Pixel Size", "m"),
    "StageX": Meaning("Stage X", "m"),
    "StageY": Meaning("Stage Y", "m"),
    "StageZ": Meaning("Stage Z", "m"),
    "StageRotation": Meaning("Stage Rotation", "deg"),
    "StageTilt": Meaning("Stage Tilt", "deg"),
    "ChamberPressure": Meaning("Chamber Pressure", "Pa"),
}


def acquisition(tags: Tags, file: DataFile) -> TifAcquisition | None:
    """What the tag says, else the `.hdr`; None when neither is there.

    The time in both is in UTC with Tescan Essence and local with older programs, and nothing tells which: the tif's own
    date, which is local, is the better one. The vendor's stays beside, as it stands.
    """
    values = list(_from_tag(tags.document(TAG))) or list(_from_header(file.path))
    if not values:
        return None
    found, others = sorted_out(values, _MEANINGS)
    said = {one.name: one.value for one in values}
    down, across = as_number(said.get("PixelSizeY")), as_number(said.get("PixelSizeX"))
    facts = (*in_order([*found, fact("Operator", tags.line(315))]), *own_values("Tescan", others))
    return TifAcquisition("Tescan", facts, None, (down, across) if down and across else None)


def _from_tag(raw: bytes | str) -> Iterator[Value]:
    position = 0
    if isinstance(raw, str):
        return
    while position + _BLOCK.size < len(raw):
        length, kind = _BLOCK.unpack_from(raw, position)
        block = raw[position + _BLOCK.size : position + 4 + length]
        position += 4 + max(length, 2)
        if kind != _PICTURE_BLOCK:
            yield from _lines(block.decode("utf-8", "replace"))


def _from_header(tif: Path) -> Iterator[Value]:
    for end in (".hdr", ".HDR"):
        header = tif.with_suffix(end)
        if header.is_file():
            with header.open("rb") as stream:
                text = stream.read(MOST_BYTES).decode("utf-8-sig", "replace")
            if "[MAIN]" in text:  # others use the extension too
                yield from _lines(text)
            return


def _lines(text: str) -> Iterator[Value]:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() and value.strip():
            yield Value(name.strip(), value.strip())
