"""Reads `.ser` series with what the `.emi` beside them says, headers only: the data are mapped, never loaded.

FEI's TIA writes one `.ser` for each signal of an acquisition, name_1.ser, name_2.ser, and their description as
name.emi. A series holds images or spectra ("elements"), alone, along a line or over a map. Imported by `order` in the
child process only.
"""

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import tia_description, vocabulary
from nexus_tasks.builder.readers.base import DamagedFileError, Dataset, file_format
from nexus_tasks.builder.readers.drawn import drawn
from nexus_tasks.builder.readers.layout import Axis, Layout
from nexus_tasks.builder.readers.layout_facts import layout_facts, signal_type
from nexus_tasks.builder.readers.tia_description import Description
from nexus_tasks.builder.readers.xml_text import parse_xml

MOST_DIMENSIONS = 4  # of a scan; the format names no limit, real files have two
MOST_ELEMENTS = 16 * 1024 * 1024

_MAGIC = b"II\x97\x01"
_SPECTRA, _IMAGES = 0x4120, 0x4122
_WIDE_OFFSETS = 0x220  # the first version of the format whose offsets have 8 bytes
_VALUES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8", 9: "<c8", 10: "<c16"}
_IMAGE_HEADER, _SPECTRUM_HEADER = struct.Struct("<ddiddihii"), struct.Struct("<ddihi")


@dataclass(frozen=True)
class _Dimension:
    """One direction of the scan over which the elements were taken."""

    size: int
    offset: float
    step: float
    name: str
    unit: str


@dataclass(frozen=True)
class _Series:
    """The headers of a file."""

    of_images: bool
    valid: int  # elements that were written; fewer than planned when the acquisition was stopped
    planned: int
    dimensions: tuple[_Dimension, ...]  # the fastest first
    offsets: npt.NDArray[np.int64]  # of each valid element
    value_type: "np.dtype[Any]"
    shape: tuple[int, ...]  # of one element
    axes: tuple[tuple[float, float], ...]  # offset and step along each axis of an element
    header_size: int  # bytes of an element before its values
    started: datetime | None


class Ser:
    """Series of FEI and Thermo Fisher microscopes; an `.emi` stands for all series beside it."""

    name = "TIA"

    def fits(self, file: DataFile) -> bool:
        """By extension."""
        return file.path.suffix.lower() in {".ser", ".emi"}

    def read(self, file: DataFile) -> Iterator[Dataset]:
        """One dataset for a `.ser`, one for each series beside an `.emi`."""
        if file.path.suffix.lower() == ".ser":
            yield self._dataset(file, file.path)
            return
        series = sorted(
            (path for path in file.path.parent.iterdir() if _description_name(path) == file.path.stem.lower()),
            key=lambda path: (len(path.name), path.name),
        )
        if not series:
            raise DamagedFileError("there is no .ser file beside it: the data of the acquisition are missing")
        for path in series:
            yield self._dataset(file, path)

    def _dataset(self, file: DataFile, path: Path) -> Dataset:
        series = _read_headers(path)
        description = _description(path)
        layout = _layout(series, description)
        picture, problem = drawn(lambda: _mapped(path, series, layout), layout)
        return Dataset(
            name=path.name,
            location=file.location,
            format=file_format(file),
            type=signal_type(layout),
            acquired=description.acquired or series.started,
            facts=vocabulary.in_order([*layout_facts(layout, series.value_type.name), *description.facts]),
            preview=picture,
            reader=self.name,
            problem=problem,
        )


def _description_name(path: Path) -> str | None:
    """The stem of the `.emi` that describes a `.ser`, in lower case; None for other files."""
    if path.suffix.lower() != ".ser":
        return None
    stem, _, number = path.stem.lower().rpartition("_")
    return stem if number.isdigit() else path.stem.lower()


def _description(path: Path) -> Description:
    """What the `.emi` beside a `.ser` says of it; a missing or damaged one leaves facts unknown."""
    stem, _, number = path.stem.rpartition("_")
    stem, place = (stem, int(number) - 1) if number.isdigit() else (path.stem, 0)
    for end in (".emi", ".EMI"):
        emi = path.with_name(stem + end)
        if emi.is_file():
            with emi.open("rb") as stream:
                infos = tia_description.object_infos(stream.read(tia_description.MOST_BYTES))
            root = parse_xml(infos[place]) if 0 <= place < len(infos) else None
            if root is not None:
                return tia_description.describe(root)
    return tia_description.UNKNOWN


def _read_headers(path: Path) -> _Series:
    with path.open("rb") as stream:
        try:
            return _parse(stream)
        except (struct.error, ValueError, OverflowError, KeyError) as error:
            raise DamagedFileError(f"its headers are damaged ({error})") from None


def _parse(stream: BinaryIO) -> _Series:
    size = os.fstat(stream.fileno()).st_size
    magic, version, kind, _, planned, valid = struct.unpack("<4shiiii", _bytes(stream, 22))
    if magic != _MAGIC or kind not in {_SPECTRA, _IMAGES}:
        raise DamagedFileError("it does not begin as a .ser file does")
    if not 0 < valid <= min(planned, MOST_ELEMENTS):
        raise DamagedFileError(f"it says that {valid} of {planned} pictures or spectra were written")
    width = 8 if version >= _WIDE_OFFSETS else 4
    (table,) = struct.unpack(f"<{'q' if width == 8 else 'i'}", _bytes(stream, width))
    (count,) = struct.unpack("<i", _bytes(stream, 4))
    if not 0 <= count <= MOST_DIMENSIONS:
        raise DamagedFileError(f"it says that the scan has {count} dimensions")
    dimensions = tuple(_dimension(stream) for _ in range(count))
    stream.seek(table)
    offsets = np.frombuffer(_bytes(stream, width * valid), f"<i{width}").astype(np.int64)
    tag_table = table + width * planned
    of_images = kind == _IMAGES
    header = _IMAGE_HEADER if of_images else _SPECTRUM_HEADER
    stream.seek(int(offsets[0]))
    fields = header.unpack(_bytes(stream, header.size))
    if of_images:
        across, step_x, at_x, up, step_y, at_y, value_type, columns, rows = fields
        shape: tuple[int, ...] = (rows, columns)
        axes: tuple[tuple[float, float], ...] = ((up - at_y * step_y, step_y), (across - at_x * step_x, step_x))
    else:
        first, step, at, value_type, channels = fields
        shape, axes = (channels,), ((first - at * step, step),)
    numbers = np.dtype(_VALUES[value_type])
    if min(shape) <= 0 or header.size + math.prod(shape) * numbers.itemsize > size:
        raise DamagedFileError(f"it says that a picture or spectrum has {' × '.join(map(str, shape))} values")
    started = _started(stream, tag_table, width)
    return _Series(of_images, valid, planned, dimensions, offsets, numbers, shape, axes, header.size, started)


def _bytes(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise DamagedFileError("it ends in the middle of its headers")
    return data


def _dimension(stream: BinaryIO) -> _Dimension:
    size, offset, step, at, length = struct.unpack("<iddii", _bytes(stream, 28))
    name = _short_text(stream, length)
    (length,) = struct.unpack("<i", _bytes(stream, 4))
    return _Dimension(size, offset - at * step, step, name, _short_text(stream, length))


def _short_text(stream: BinaryIO, length: int) -> str:
    if not 0 <= length <= 1024:
        raise DamagedFileError("it ends in the middle of its headers")
    return _bytes(stream, length).decode("latin-1").strip("\0 ")


def _started(stream: BinaryIO, tag_table: int, width: int) -> datetime | None:
    """When the first element was recorded, from its tag; programs that write no time leave 0."""
    try:
        stream.seek(tag_table)
        (position,) = struct.unpack(f"<{'q' if width == 8 else 'i'}", stream.read(width))
        stream.seek(position)
        kind, seconds = struct.unpack("<i I", stream.read(8))
    except (struct.error, ValueError, OSError):
        return None
    known = kind & 0xFFFF in {0x4142, 0x4152} and seconds > 0
    return datetime.fromtimestamp(seconds, UTC) if known else None


def _layout(series: _Series, description: Description) -> Layout:
    """The axes: those of the scan that have more than one place, then those of an element."""
    scan = [dimension for dimension in reversed(series.dimensions) if dimension.size > 1]
    if series.valid < series.planned or not scan:
        # A scan that was stopped: its last line is not complete, and the whole is a plain series.
        scan = _written(scan, series.valid)
    axes = [
        Axis(
            dimension.name if dimension.unit != "meters" else name,
            *_length(dimension.step, dimension.offset, dimension.unit, dimension.size),
        )
        for dimension, name in zip(scan, ("y", "x") if len(scan) == 2 else ("x",) * len(scan), strict=False)
    ]
    unit = "1/meters" if description.reciprocal else "meters"
    for name, size, (offset, step) in zip("yx" if series.of_images else "E", series.shape, series.axes, strict=True):
        if series.of_images:
            axes.append(Axis(name, *_length(step, offset, unit, size)))
        else:
            axes.append(Axis("Energy", "eV", size, step, offset, None))
    signal = tuple(range(len(axes) - len(series.shape), len(axes)))
    return Layout(tuple(axes), signal, tuple(range(signal[0])))


def _written(scan: list[_Dimension], valid: int) -> list[_Dimension]:
    """The dimensions of what was written of a scan: its complete lines, or what there is of the first."""
    if len(scan) == 2 and valid >= 2 * scan[1].size:
        first = scan[0]
        return [_Dimension(valid // scan[1].size, first.offset, first.step, first.name, first.unit), scan[1]]
    if valid == 1:
        return []
    last = scan[-1] if scan else _Dimension(valid, 0.0, 1.0, "", "")
    return [_Dimension(min(valid, last.size) if scan else valid, last.offset, last.step, last.name, last.unit)]


def _length(step: float, offset: float, unit: str, size: int) -> tuple[str | None, int, float, float, None]:
    """Unit, size, scale, offset and the absent list of positions of an axis in nanometres instead of metres."""
    if unit == "meters":
        return "nm", size, step * 1e9, offset * 1e9, None
    if unit == "1/meters":
        return "1/nm", size, step / 1e9, offset / 1e9, None
    return unit or None, size, step, offset, None


def _mapped(path: Path, series: _Series, layout: Layout) -> Any:
    """All values as one array that lies in the file, where the elements follow each other at equal distances."""
    count = math.prod(layout.axes[index].size for index in layout.navigation)
    if count > series.valid:
        raise DamagedFileError(f"it holds {series.valid} pictures or spectra for a scan of {count} places")
    item = series.value_type.itemsize
    element = series.header_size + math.prod(series.shape) * item
    distance = int(series.offsets[1] - series.offsets[0]) if count > 1 else element
    if distance < element or (np.diff(series.offsets[:count]) != distance).any():
        raise DamagedFileError("its pictures or spectra are not all of one size")
    first, needed = int(series.offsets[0]), (count - 1) * distance + element
    if first + needed > path.stat().st_size:
        raise DamagedFileError("it is cut off")
    values = np.ndarray(
        (count, *series.shape),
        series.value_type,
        np.memmap(path, np.uint8, "r", first, (needed,)),
        series.header_size,
        (distance, *(math.prod(series.shape[place + 1 :]) * item for place in range(len(series.shape)))),
    )
    if series.of_images:
        values = values[:, ::-1, :]  # the first row is the lowest
    return values.reshape([axis.size for axis in layout.axes])  # splits the first axis: a view still
