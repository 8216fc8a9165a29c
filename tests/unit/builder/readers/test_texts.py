"""Text files show their first lines."""

import io
from pathlib import Path

import pytest

from tests.requirements import require_module

require_module("PIL", "nexus-tasks[readers]")

from PIL import Image  # noqa: E402 after the requirement

from nexus_tasks.builder.readers.base import Dataset, Fact  # noqa: E402
from nexus_tasks.builder.readers.texts import Texts  # noqa: E402
from tests.unit.builder.readers.made_files import data_file  # noqa: E402


def read(path: Path, raw: bytes) -> Dataset | None:
    path.write_bytes(raw)
    reader, file = Texts(), data_file(path)
    return next(iter(reader.read(file))) if reader.fits(file) else None


def test_notes_are_quoted_and_drawn(tmp_path: Path) -> None:
    dataset = read(tmp_path / "notes.txt", "Grid 7, cell B3\r\n\r\nthickness ≈ 40 nm\r\n".encode())

    assert dataset is not None
    assert dataset.type == "Notes"
    assert dataset.facts == (Fact("Text", "Grid 7, cell B3 / thickness ≈ 40 nm"),)
    assert dataset.preview is not None
    with Image.open(io.BytesIO(dataset.preview)) as picture:
        assert picture.width == 500


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_windows_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    dataset = read(tmp_path / "notes.log", "Größe\n".encode(encoding))

    assert dataset is not None
    assert dataset.facts == (Fact("Text", "Größe"),)


def test_a_character_cut_in_half_at_the_end_of_what_is_read_does_no_harm(tmp_path: Path) -> None:
    dataset = read(tmp_path / "notes.txt", b"x" * 4095 + "ö".encode() * 10)

    assert dataset is not None
    assert dataset.facts[0].value.startswith("xxx")


def test_a_table_is_no_note(tmp_path: Path) -> None:
    dataset = read(tmp_path / "table.csv", b"a,b\n1,2\n")

    assert dataset is not None
    assert dataset.type == "Misc"


def test_an_empty_text_has_nothing_to_show(tmp_path: Path) -> None:
    dataset = read(tmp_path / "empty.txt", b"")

    assert dataset is not None
    assert (dataset.facts, dataset.preview) == ((), None)


def test_binary_data_under_a_texts_name_are_left_to_others(tmp_path: Path) -> None:
    assert read(tmp_path / "data.txt", b"II\x97\x01\x10\x02") is None
