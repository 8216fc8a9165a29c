"""Datasets on their way between the processes."""

import json
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Dataset, Fact
from nexus_tasks.builder.readers.messages import dataset_from_json, dataset_to_json, file_from_json, file_to_json


def test_a_dataset_arrives_as_it_was_sent() -> None:
    full = Dataset(
        "ä\udcff", PurePosixPath("a/ä\udcff"), "DM3", "Image", datetime(2024, 5, 1, tzinfo=UTC),
        (Fact("x", "1", "nm"), Fact("y", "2")), b"\x89PNG", "reader", "problem",
    )  # fmt: skip
    empty = Dataset("a", PurePosixPath("a"), "DM3", "Unknown", None, (), None, "basic")

    for dataset in (full, empty):
        assert dataset_from_json(json.loads(json.dumps(dataset_to_json(dataset)))) == dataset


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None},
        {"type": "Film"},
        {"type": ["Image"]},
        {"facts": [["x", 5, None]]},
        {"facts": [["x", "5"]]},
        {"facts": [["x", "5", 1]]},
        {"facts": 5},
        {"acquired": ""},
        {"acquired": 0},
        {"preview": 0},
        {"problem": 1},
        {"location": 1},
        {"reader": None},
        {"format": 1},
    ],
)
def test_what_is_no_dataset_is_refused(wrong: dict[str, Any]) -> None:
    message = dataset_to_json(Dataset("a", PurePosixPath("a"), "DM3", "Unknown", None, (), None, "basic"))

    with pytest.raises((TypeError, ValueError)):
        dataset_from_json({**message, **wrong})


def test_a_file_arrives_as_it_was_sent() -> None:
    file = DataFile(Path("/d/a\udcff"), PurePosixPath("a\udcff"), 3, datetime(2024, 5, 1, 1, 2, 3, 4, tzinfo=UTC))

    assert file_from_json(json.loads(json.dumps(file_to_json(file)))) == file
