"""Reads microscope files with RosettaSciIO; imported by `child` only, because RosettaSciIO is GPL-3.

RosettaSciIO has no reader that finds out what a file is: those that know the extension are tried one after the other.
"""

import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rsciio import IO_PLUGINS

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import mapped, preview
from nexus_tasks.builder.readers.base import Dataset, DatasetType, UnreadableError, file_format, one_line
from nexus_tasks.builder.readers.layout import Layout

EAGER_BYTES = 256 * 1024 * 1024  # larger files are read lazily or not at all

Reader = Callable[..., list[dict[str, Any]]]

# Never used: it runs a text inside the file as Python. The format is that of one program of 2011.
_UNSAFE = ("netCDF",)

# Formats that say nothing about where they come from; a microscope's own are tried first.
_GENERAL_PURPOSE = ("Image", "numpy")


def knows(file: DataFile) -> bool:
    """Whether there is a reader for the file's extension."""
    return next(_plugins(file), None) is not None


def read(file: DataFile) -> tuple[Dataset, ...]:
    """The datasets of a file, by the first reader that understands it; raises `UnreadableError`."""
    problems = []
    for plugin in _plugins(file):
        try:
            signals = _signals(plugin["api"], file)
            return tuple(_dataset(file, plugin["name"], signals, index) for index in range(len(signals)))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 a damaged file makes a reader raise anything
            problems.append(f"{plugin['name']}: {one_line(error)}")
    raise UnreadableError("; ".join(problems))


def _plugins(file: DataFile) -> Iterator[dict[str, Any]]:
    extension = file.path.suffix[1:].lower()
    fitting = [
        plugin
        for plugin in IO_PLUGINS
        if plugin["name"] not in _UNSAFE and extension in map(str.lower, plugin["file_extensions"])
    ]
    yield from sorted(fitting, key=lambda plugin: plugin["name"] in _GENERAL_PURPOSE)


def _signals(api: str, file: DataFile) -> list[dict[str, Any]]:
    """What the reader finds: lazily, or eagerly where it cannot and the file is small."""
    reader: Reader = importlib.import_module(api).file_reader
    try:
        signals = reader(str(file.path), lazy=True)
    except MemoryError:
        raise
    except Exception:
        if file.size > EAGER_BYTES:
            raise
        signals = reader(str(file.path))
    if not signals:
        raise ValueError("it holds no data")
    if file.path.suffix == ".ser":
        _describe_series(signals, reader, file)
    return signals


def _describe_series(signals: list[dict[str, Any]], reader: Reader, file: DataFile) -> None:
    """Give a `.ser` what the `.emi` beside it says: the microscope's settings stand only there.

    Given an `.emi`, the reader opens every `.ser` that it finds beside it: it gets a folder where there is only one.
    """
    stem, _, number = file.path.stem.rpartition("_")
    description = next((path for end in (".emi", ".EMI") if (path := file.path.with_name(stem + end)).is_file()), None)
    if description is None or not number.isdigit():
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in (description, file.path):
            (Path(folder) / path.name).symlink_to(path)
        try:
            described = reader(str(Path(folder) / description.name), lazy=True)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 the data are there; a damaged description only leaves facts unknown
            return
    for signal, better in zip(signals, described, strict=False):
        signal.update({key: better[key] for key in ("metadata", "original_metadata", "mapping")})


def _dataset(file: DataFile, plugin: str, signals: list[dict[str, Any]], index: int) -> Dataset:
    signal = signals[index]
    metadata = mapped.apply_mapping(signal)
    original = mapped.as_tree(signal.get("original_metadata") or {})
    data = signal["data"]
    signal_type = str(metadata.get("Signal", {}).get("signal_type") or "")
    layout = Layout.from_rosettasciio(_ordered(signal["axes"]), data.shape, signal_type)
    picture, problem = _preview(data, layout)
    return Dataset(
        name=file.path.name if len(signals) == 1 else f"{file.path.name} ({index + 1} of {len(signals)})",
        location=file.location,
        format=file_format(file),
        type=_type(metadata, layout, data.dtype),
        acquired=mapped.acquired(metadata),
        facts=mapped.facts(metadata, original, layout, _value_type(data.dtype)),
        preview=picture,
        reader=plugin,
        problem=problem,
    )


def _ordered(axes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The axes in the order of the array's dimensions."""
    if all("index_in_array" in axis for axis in axes):
        return sorted(axes, key=lambda axis: axis["index_in_array"])
    return axes


def _type(metadata: mapped.Tree, layout: Layout, value_type: "np.dtype[Any]") -> DatasetType:
    if value_type.kind == "O":
        return "Misc"
    if len(layout.signal) == 1:
        return "SpectrumImage" if len(layout.navigation) >= 2 else "Spectrum"
    if len(layout.signal) == 2:
        return "Diffraction" if mapped.is_diffraction(metadata, layout) else "Image"
    return "Misc"


def _value_type(value_type: "np.dtype[Any]") -> str:
    return "".join(value_type.names) if value_type.names else str(value_type)


def _preview(data: Any, layout: Layout) -> tuple[bytes | None, str | None]:
    """The preview, and why there is none: what lies behind the header may be damaged or missing."""
    try:
        return preview.render(data, layout), None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 lazily read data fail here, with anything
        return None, f"its data cannot be shown: {one_line(error)}"
