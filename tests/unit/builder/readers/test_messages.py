"""Datasets on their way between the processes."""

import json
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

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


def test_a_file_arrives_as_it_was_sent() -> None:
    file = DataFile(Path("/d/a\udcff"), PurePosixPath("a\udcff"), 3, datetime(2024, 5, 1, 1, 2, 3, 4, tzinfo=UTC))

    assert file_from_json(json.loads(json.dumps(file_to_json(file)))) == file
