"""Ordinary pictures."""

from pathlib import Path

import pytest

from tests.requirements import require_module

require_module("PIL", "nexus-tasks[readers]")

from PIL import Image, UnidentifiedImageError  # noqa: E402 after the requirement

from nexus_tasks.builder.readers.base import Fact  # noqa: E402
from nexus_tasks.builder.readers.pictures import Pictures  # noqa: E402
from tests.unit.builder.readers.made_files import data_file  # noqa: E402


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.bmp", "a.gif", "a.webp"])
def test_a_picture_is_an_image_with_its_size(tmp_path: Path, name: str) -> None:
    Image.new("L", (1200, 30), 128).save(tmp_path / name)
    reader, file = Pictures(), data_file(tmp_path / name)

    assert reader.fits(file)
    (dataset,) = reader.read(file)

    assert dataset.type == "Image"
    assert Fact("Data Dimensions", "1200 × 30") in dataset.facts
    assert str(dataset.preview)[:6] == "b'\\x89"


def test_what_only_has_the_name_of_a_picture_raises(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"not a picture")

    with pytest.raises(UnidentifiedImageError):
        list(Pictures().read(data_file(tmp_path / "a.jpg")))
