"""Small files in microscopes' formats, written byte by byte as their descriptions say; for tests of the readers."""

import importlib
import json
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from nexus_tasks.builder.files import DataFile

WRITTEN = datetime(2024, 5, 6, 10, tzinfo=UTC)


def data_file(path: Path) -> DataFile:
    """The file as the builder finds it."""
    return DataFile(path, PurePosixPath(path.name), path.stat().st_size, WRITTEN)


# --- DigitalMicrograph: a tree of tags, numbers of 4 bytes in dm3 and of 8 in dm4


_DM_KINDS: Mapping[str, tuple[int, int]] = {  # numpy's name: the code of the image, the code of the tag
    "int16": (1, 2),
    "uint8": (6, 10),
    "int32": (7, 3),
    "uint16": (10, 4),
    "float32": (2, 6),
}


def write_dm(
    path: Path,
    data: npt.NDArray[Any] | None = None,
    *,
    shape: Sequence[int] = (),
    kind: str = "int16",
    tags: Mapping[str, Any] | None = None,
    units: Sequence[tuple[float, str]] = (),
) -> Path:
    """A dm3 or dm4 by its extension; with `shape` instead of `data` the values are a hole in the file."""
    wide = path.suffix == ".dm4"
    shape = shape if data is None else data.shape
    kind = kind if data is None else data.dtype.name
    count = 1
    for size in shape:
        count *= size
    image_code, tag_code = _DM_KINDS[kind]
    calibrations = units or [(0.5, "nm")] * len(shape)
    image = {
        "ImageData": {
            "Calibrations": {
                "Brightness": {"Origin": 0.0, "Scale": 1.0, "Units": "e"},
                "Dimension": [{"Origin": 0.0, "Scale": scale, "Units": unit} for scale, unit in calibrations],
            },
            "Data": _Values(tag_code, count, np.dtype(kind).itemsize, b"" if data is None else data.tobytes()),
            "DataType": image_code,
            "Dimensions": list(reversed(shape)),
            "PixelDepth": np.dtype(kind).itemsize,
        },
        "ImageTags": dict(tags or {}),
        "Name": "made",
    }
    pieces = _dm_group({"ImageList": [image]}, wide)
    start = struct.pack(">I", 4 if wide else 3)
    size = sum(len(piece) if isinstance(piece, bytes) else piece for piece in pieces)
    start += struct.pack(">QI" if wide else ">II", size if wide else size % 2**32, 1)
    with path.open("wb") as stream:
        stream.write(start)
        for piece in pieces:
            if isinstance(piece, bytes):
                stream.write(piece)
            else:
                stream.seek(piece, 1)
        stream.write(bytes(8))
    return path


class _Values:
    def __init__(self, code: int, count: int, size: int, raw: bytes) -> None:
        self.code, self.count, self.size, self.raw = code, count, size, raw


def _dm_group(content: Mapping[str, Any] | Sequence[Any], wide: bool) -> list[bytes | int]:
    named = content.items() if isinstance(content, Mapping) else [("", value) for value in content]
    pieces: list[bytes | int] = [b"\0\0" + _dm_number(len(content), wide)]
    for name, value in named:
        below = _dm_group(value, wide) if isinstance(value, Mapping | list) else _dm_data(value, wide)
        label = name.encode("latin-1")
        kind = 20 if isinstance(value, Mapping | list) else 21
        size = sum(len(piece) if isinstance(piece, bytes) else piece for piece in below)
        pieces.append(struct.pack(">BH", kind, len(label)) + label + (_dm_number(size, wide) if wide else b""))
        pieces += below
    return pieces


def _dm_data(value: Any, wide: bool) -> list[bytes | int]:
    if isinstance(value, _Values):
        head, raw = [20, value.code, value.count], value.raw
        size = value.count * value.size
    elif isinstance(value, str):
        raw = value.encode("utf-16-le")
        head, size = [20, 4, len(value)], len(raw)
    elif isinstance(value, float):
        head, raw, size = [7], struct.pack("<d", value), 8
    else:
        head, raw, size = [5], struct.pack("<I", value), 4
    start = b"%%%%" + _dm_number(len(head), wide) + b"".join(_dm_number(number, wide) for number in head)
    return [start, raw or size]


def _dm_number(value: int, wide: bool) -> bytes:
    return struct.pack(">Q" if wide else ">I", value if wide else value % 2**32)


DM_TAGS: Mapping[str, Any] = {
    "DataBar": {"Acquisition Date": "5/6/2024", "Acquisition Time": "10:00:00 AM", "Device Name": "Camera 1"},
    "Microscope Info": {
        "Voltage": 200000.0,
        "Indicated Magnification": 50000.0,
        "Illumination Mode": "TEM",
        "Imaging Mode": "MAG1",
    },
}


# --- TIA: a series and its description


def write_ser(
    path: Path,
    data: npt.NDArray[Any] | None = None,
    *,
    scan: Sequence[tuple[int, float, str]] = (),
    shape: Sequence[int] = (),
    valid: int | None = None,
    calibration: Sequence[tuple[float, float]] = (),
    seconds: int = 0,
    wide: bool = True,
) -> Path:
    """A series of uint16 elements; `data` has the scan's axes first, without it the values are holes in the file.

    `scan` lists size, step and unit of each dimension, the slowest first; `calibration` offset and step of each axis of
    an element, x first.
    """
    dimensions = scan or [(1, 1.0, "")]
    count = 1
    for size, _, _ in dimensions:
        count *= size
    shape = shape if data is None else data.shape[len(scan) :]
    values = None if data is None else data.reshape((count, *shape))
    images = len(shape) == 2
    number = "<q" if wide else "<i"
    head = b"".join(
        struct.pack("<iddii", size, 0.0, step, 0, 6) + b"Number" + struct.pack("<i", len(unit)) + unit.encode()
        for size, step, unit in reversed(dimensions)
    )
    width = struct.calcsize(number)
    table = 22 + width + 4 + len(head)
    places = [0.0, 1.0] if not calibration else [part for pair in calibration for part in pair]
    if images:
        x, step_x, y, step_y = (places * 2)[:4]
        element = struct.pack("<ddiddihii", x, step_x, 0, y, step_y, 0, 2, shape[1], shape[0])
    else:
        element = struct.pack("<ddihi", places[0], places[1], 0, 2, shape[0])
    size = len(element) + 2 * int(np.prod(shape))
    tag = struct.pack("<hHIdd", 0x4142, 0, seconds, 0.0, 0.0)
    first = table + 2 * width * count
    offsets = [first + place * (size + len(tag)) for place in range(count)]
    kind = 0x4122 if images else 0x4120
    with path.open("wb") as stream:
        stream.write(
            struct.pack("<hhhiiii", 0x4949, 0x197, 0x220 if wide else 0x210, kind, 0x4142, count, valid or count)
        )
        stream.write(struct.pack(number, table) + struct.pack("<i", len(dimensions)) + head)
        stream.write(b"".join(struct.pack(number, offset) for offset in offsets))
        stream.write(b"".join(struct.pack(number, offset + size) for offset in offsets))
        for place, offset in enumerate(offsets):
            stream.seek(offset)
            stream.write(element)
            if values is not None:
                stream.write(values[place].astype("<u2").tobytes())
            stream.seek(offset + size)
            stream.write(tag)
    return path


def description(mode: str = "TEM Imaging", date: str = "Mon May 06 10:00:00 2024", more: str = "") -> str:
    """What TIA writes about one acquisition."""
    said = {
        "Microscope": ("Microscope Tecnai 200 kV", ""),
        "User": ("ANN", ""),
        "High tension": ("200", "kV"),
        "Mode": (mode, ""),
        "Magnification": ("50000", "x"),
        "Camera length": ("0.42", "m"),
        "Stage X": ("100.5", "um"),
        "Stage A": ("-0.84", "deg"),
        "Gun lens": ("6", ""),
    }
    labelled = "".join(
        f"<Data><Label>{label}</Label><Value>{value}</Value><Unit>{unit}</Unit></Data>"
        for label, (value, unit) in said.items()
    )
    return (
        f"<ObjectInfo><Uuid>1</Uuid><ExperimentalDescription><Root>{labelled}</Root></ExperimentalDescription>"
        f"<AcquireDate>{date}</AcquireDate><AcquireInfo>{more}</AcquireInfo></ObjectInfo>"
    )


def write_emi(path: Path, *descriptions: str) -> Path:
    """The description of several series, among the binary data that TIA puts around it."""
    path.write_bytes(b"\x4a\x4b\0\x01" + b"\0\xff\x10".join(one.encode() for one in descriptions) + b"\0\0")
    return path


# --- others


def write_msa(path: Path, channels: int = 64, more: Mapping[str, str] | None = None) -> Path:
    """A spectrum as text; `more` are further lines of its header."""
    head = {
        "FORMAT": "EMSA/MAS Spectral Data File",
        "VERSION": "1.0",
        "TITLE": "made",
        "DATE": "06-May-2024",
        "TIME": "10:00",
        "NPOINTS": f"{channels}.",
        "NCOLUMNS": "1.",
        "XUNITS": "eV",
        "YUNITS": "Counts",
        "DATATYPE": "Y",
        "XPERCHAN": "10.0",
        "OFFSET": "0.0",
        "SIGNALTYPE": "EDS",
        "BEAMKV   -kV": "15.0",
        **(more or {}),
    }
    lines = [f"#{key:<13}: {value}" for key, value in head.items()]
    values = [f"{channel % 17}.0," for channel in range(channels)]
    path.write_text("\n".join([*lines, "#SPECTRUM    : Spectral Data Starts Here", *values, "#ENDOFDATA   : "]) + "\n")
    return path


def write_mrc(path: Path, data: npt.NDArray[np.int16], fei: Sequence[float] = ()) -> Path:
    """A stack of pictures after a header of 1024 bytes.

    With `fei`, an extended header follows as FEI's programs write it: 1024 blocks of 128 bytes, one for each picture.
    They say tilt a, tilt b, stage x, y, z, shift x, y, defocus, exposure, mean, tilt axis, pixel size, magnification.
    """
    frames, rows, columns = data.shape
    header = bytearray(1024)
    struct.pack_into("<4i", header, 0, columns, rows, frames, 1)
    struct.pack_into(
        "<3i3f3f", header, 28, columns, rows, frames, 10.0 * columns, 10.0 * rows, 10.0 * frames, 90, 90, 90
    )
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    header[208:216] = b"MAP \x44\x44\0\0"
    extended = b""
    if fei:
        extended = (frames * struct.pack("<13f", *fei).ljust(128, b"\0")).ljust(1024 * 128, b"\0")
        struct.pack_into("<i", header, 92, len(extended))
    path.write_bytes(bytes(header) + extended + data.astype("<i2").tobytes())
    return path


def write_spc(path: Path, channels: int = 64) -> Path:
    """An EDAX spectrum; its header has 20,740 bytes, and the values of the channels lie in its middle."""
    whole = bytearray(20740)
    struct.pack_into("<ff", whole, 0, 0.7, 4.4)
    struct.pack_into("<hbbbb", whole, 16, 2024, 6, 5, 0, 10)
    struct.pack_into("<ih", whole, 28, 3840, channels)
    struct.pack_into("<i", whole, 384, 10)
    struct.pack_into("<f", whole, 532, 15.0)
    whole[3840 : 3840 + 4 * channels] = np.arange(channels, dtype="<u4").tobytes()
    path.write_bytes(whole)
    return path


def write_velox(path: Path, said: Mapping[str, Any], seconds: int) -> Path:
    """A picture as Velox keeps it: HDF5 with JSON inside; `seconds` since 1970 is when it was taken."""
    h5py: Any = importlib.import_module("h5py")  # ships no types
    tree = {
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": str(seconds)}},
        "BinaryResult": {"PixelSize": {"width": "1e-9", "height": "1e-9"}, "PixelUnitX": "m", "PixelUnitY": "m"},
        "Detectors": {},
        "Optics": {"AccelerationVoltage": "200000"},
        **said,
    }
    with h5py.File(path, "w") as file:
        file["Version"] = [json.dumps({"format": "Velox", "version": 11}).encode()]
        picture = file.create_group("Data/Image/0123456789abcdef")
        picture["Data"] = np.arange(8 * 8, dtype=np.uint16).reshape(8, 8, 1)
        picture["Metadata"] = np.frombuffer(json.dumps(tree).encode(), np.uint8)[:, np.newaxis]
    return path


def write_tvips(path: Path, seconds: int) -> Path:
    """A stream of two pictures from a TVIPS camera; `seconds` since 1970 is when the first was taken."""
    frame = struct.pack("<4IfII5fI2f", 1, seconds, 0, 0, 0.0, 0, 1, *(100.0,) * 5, 0, 0.0, 0.0)
    header = struct.pack("<13I", 256, 2, 4, 4, 16, 0, 0, 1, 1, 1, 200, 5000, len(frame)).ljust(256, b"\0")
    path.write_bytes(header + 2 * (frame + np.arange(16, dtype="<u2").tobytes()))
    return path
