"""Datasets as JSON, on their way from the child process to the builder; used by `child` and `isolation`."""

import base64
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Dataset, Fact


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
    """The dataset that `dataset_to_json` wrote; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    return Dataset(
        name=message["name"],
        location=PurePosixPath(message["location"]),
        format=message["format"],
        type=message["type"],
        acquired=message["acquired"] and datetime.fromisoformat(message["acquired"]),
        facts=tuple(Fact(name, value, unit) for name, value, unit in message["facts"]),
        preview=message["preview"] and base64.b64decode(message["preview"]),
        reader=message["reader"],
        problem=message["problem"],
    )
