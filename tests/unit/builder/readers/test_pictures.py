"""Ordinary pictures."""

import io
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import require_module

require_module("PIL", "nexus-tasks[readers]")

import numpy as np  # noqa: E402 after the requirement
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


def write_pgm(path: Path, values: Any) -> Path:
    height, width = values.shape
    path.write_bytes(f"P5 {width} {height} 65535\n".encode() + values.astype(">u2").tobytes())
    return path


def write_png(path: Path, values: Any) -> Path:
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


def write_pfm(path: Path, values: Any) -> Path:
    height, width = values.shape
    path.write_bytes(f"Pf\n{width} {height}\n-1.0\n".encode() + values[::-1].astype("<f4").tobytes())
    return path


@pytest.mark.parametrize(("name", "write"), [("a.png", write_png), ("a.pgm", write_pgm), ("b.pgm", write_pfm)])
@pytest.mark.parametrize("brightest", [4095, 65535])
def test_a_picture_of_more_than_256_greys_runs_from_black_to_white(
    tmp_path: Path, name: str, write: Any, brightest: int
) -> None:
    values = np.tile(np.linspace(0, brightest, 1500), (900, 1)).round()

    (dataset,) = Pictures().read(data_file(write(tmp_path / name, values)))

    with Image.open(io.BytesIO(dataset.preview or b"")) as preview:
        greys = np.asarray(preview.convert("L"))
    assert greys.shape == (300, 500)
    assert np.abs(greys.mean(axis=0) - np.linspace(0, 255, 500)).max() < 4


def test_what_only_has_the_name_of_a_picture_raises(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"not a picture")

    with pytest.raises(UnidentifiedImageError):
        list(Pictures().read(data_file(tmp_path / "a.jpg")))
