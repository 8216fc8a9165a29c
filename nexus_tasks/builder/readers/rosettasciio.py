"""Reads microscope files with RosettaSciIO; imported by `order` in the child process only: RosettaSciIO is GPL-3.

RosettaSciIO has no reader that finds out what a file is: those that know the extension are tried one after the other.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rsciio import IO_PLUGINS

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import mapped, pictures, storage
from nexus_tasks.builder.readers.base import Dataset, DatasetType, UnreadableError, file_format, one_line
from nexus_tasks.builder.readers.drawn import drawn
from nexus_tasks.builder.readers.layout import Layout
from nexus_tasks.builder.readers.layout_facts import layout_facts, signal_type
from nexus_tasks.builder.readers.originals import read_original
from nexus_tasks.builder.readers.vocabulary import in_order

EAGER_BYTES = 256 * 1024 * 1024  # larger files are read lazily or not at all
MOST_DATASETS = 100  # of one file; a record shows each with its preview

Read = Callable[..., list[dict[str, Any]]]

# Never used: it runs a text inside the file as Python. The format is that of one program of 2011.
_UNSAFE = ("netCDF",)

# Not needed: `ser` reads these formats without loading the data.
_REPLACED = ("TIA",)

# Formats that say nothing about where they come from; a microscope's own are tried first.
_GENERAL_PURPOSE = ("Image", "numpy")


class RosettaSciIO:
    """Every format of RosettaSciIO, with its mapping applied and what the mapping leaves behind."""

    name = "RosettaSciIO"

    def fits(self, file: DataFile) -> bool:
        """Whether one of its readers knows the extension; ordinary pictures are not its business."""
        return next(_plugins(file), None) is not None

    def read(self, file: DataFile) -> list[Dataset]:
        """The datasets of a file, by the first reader that understands it; raises `UnreadableError`."""
        problems = []
        for plugin in _plugins(file):
            try:
                signals = _signals(plugin["api"], file)
                return [
                    _dataset(file, plugin["name"], signals, index) for index in range(min(len(signals), MOST_DATASETS))
                ]
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 a damaged file makes a reader raise anything
                storage.note(error)
                problems.append(f"{plugin['name']}: {one_line(error)}")
        raise UnreadableError("; ".join(problems))


def _plugins(file: DataFile) -> Iterator[dict[str, Any]]:
    extension = file.path.suffix[1:].lower()
    fitting = [
        plugin
        for plugin in IO_PLUGINS
        if plugin["name"] not in (*_UNSAFE, *_REPLACED)
        and extension in map(str.lower, plugin["file_extensions"])
        and extension not in pictures.EXTENSIONS
    ]
    yield from sorted(fitting, key=lambda plugin: plugin["name"] in _GENERAL_PURPOSE)


def _signals(api: str, file: DataFile) -> list[dict[str, Any]]:
    """What the reader finds: lazily, or eagerly where it cannot and the file is small."""
    read: Read = importlib.import_module(api).file_reader
    try:
        signals = read(str(file.path), lazy=True)
    except MemoryError:
        raise
    except Exception:
        if file.size > EAGER_BYTES:
            raise
        signals = read(str(file.path))
    if not signals:
        raise ValueError("it holds no data")
    return signals


def _dataset(file: DataFile, plugin: str, signals: list[dict[str, Any]], index: int) -> Dataset:
    signal, data = signals[index], signals[index]["data"]
    metadata = mapped.apply_mapping(signal)
    about = metadata.get("Signal", {})
    layout = Layout.from_rosettasciio(_ordered(signal["axes"]), data.shape, str(about.get("signal_type") or ""))
    kind = _type(metadata, layout, data.dtype)
    original = read_original(plugin, signal, file)
    known = mapped.facts(metadata, mapped.as_tree(signal.get("original_metadata") or {}), plugin)
    picture, problem = drawn(
        lambda: data, layout, quantity=str(about.get("quantity") or ""), diffraction=kind == "Diffraction"
    )
    if index == MOST_DATASETS - 1 and len(signals) > MOST_DATASETS:
        problem = f"it holds {len(signals)} datasets, of which the first {MOST_DATASETS} are shown"
    return Dataset(
        name=file.path.name if len(signals) == 1 else f"{file.path.name} ({index + 1} of {len(signals)})",
        location=file.location,
        format=file_format(file),
        type=kind,
        acquired=original.acquired or mapped.acquired(metadata, plugin),
        facts=(
            *in_order([*known, *layout_facts(layout, _value_type(data.dtype)), *original.facts]),
            *original.own,
        ),
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
    if len(layout.signal) == 2 and mapped.is_diffraction(metadata, layout):
        return "Diffraction"
    return signal_type(layout)


def _value_type(value_type: "np.dtype[Any]") -> str:
    return "".join(value_type.names) if value_type.names else str(value_type)
