"""Datasets as JSON, on their way from the child process to the builder; used by `child` and `isolation`."""

import base64
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Dataset, DatasetType, Fact


def file_to_json(file: DataFile) -> dict[str, Any]:
    """The request for one file."""
    return {
        "path": str(file.path),
        "location": str(file.location),
        "size": file.size,
        "mtime": file.mtime.isoformat(),
    }


def file_from_json(message: dict[str, Any]) -> DataFile:
    """The file that a request asks for."""
    return DataFile(
        path=Path(message["path"]),
        location=PurePosixPath(message["location"]),
        size=message["size"],
        mtime=datetime.fromisoformat(message["mtime"]),
    )


def dataset_to_json(dataset: Dataset) -> dict[str, Any]:
    """One dataset of an answer; a time without zone stays without."""
    return {
        "name": dataset.name,
        "location": str(dataset.location),
        "format": dataset.format,
        "type": dataset.type,
        "acquired": dataset.acquired and dataset.acquired.isoformat(),
        "facts": [[fact.name, fact.value, fact.unit] for fact in dataset.facts],
        "preview": dataset.preview and base64.b64encode(dataset.preview).decode("ascii"),
        "reader": dataset.reader,
        "problem": dataset.problem,
    }


def dataset_from_json(message: dict[str, Any]) -> Dataset:
    """The dataset that `dataset_to_json` wrote; raises `KeyError`, `TypeError` or `ValueError` for anything else.

    A reader of another package may have put anything into its datasets, which must not spoil a whole record.
    """
    acquired, preview = _optional(message["acquired"]), _optional(message["preview"])
    return Dataset(
        name=_text(message["name"]),
        location=PurePosixPath(_text(message["location"])),
        format=_text(message["format"]),
        type=_type(message["type"]),
        acquired=None if acquired is None else datetime.fromisoformat(acquired),
        facts=tuple(Fact(_text(name), _text(value), _optional(unit)) for name, value, unit in message["facts"]),
        preview=None if preview is None else base64.b64decode(preview),
        reader=_text(message["reader"]),
        problem=_optional(message["problem"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _type(value: object) -> DatasetType:
    found: DatasetType | None = next((known for known in get_args(DatasetType) if known == value), None)
    if found is None:
        raise ValueError(f"{value!r:.40} is no type of a dataset")
    return found
