"""`nexus-tasks inspect` tells what the readers see, without database and broker."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import FileReader
from nexus_tasks.cli import main
from tests.requirements import require_module
from tests.unit.builder.readers.made_files import DM_TAGS, write_msa


class Said(NamedTuple):
    status: int
    out: str
    err: str


Inspect = Callable[..., Said]


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inspect:
    def run(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["nexus-tasks", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        code: Any = left.value.code
        return Said(code or 0, " ".join(out.split()), " ".join(err.split()))

    monkeypatch.setenv("NX_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setenv("NX_BROKER_URL", "redis://127.0.0.1:1/0")
    require_module("rsciio", "nexus-tasks[readers]")
    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    import numpy as np

    from tests.unit.builder.readers.made_files import write_dm

    return write_dm(tmp_path / "a.dm3", np.arange(12 * 16, dtype=np.int16).reshape(12, 16), tags=DM_TAGS)


def test_a_microscopes_file_is_shown_with_units_and_the_zone_asked_for(picture: Path, inspect: Inspect) -> None:
    said = inspect(picture, "--timezone", "America/New_York")

    assert said.status == 0
    for words in (
        "Type Image",
        "Reader DigitalMicrograph",
        "Acquired 2024-05-06 10:00:00-04:00",
        "Acceleration Voltage 200 kV",
        "Magnification 50000",
        "DigitalMicrograph: Microscope Info.Imaging Mode MAG1",
    ):
        assert words in said.out
    assert not said.err


def test_for_programs_there_is_one_document(picture: Path, inspect: Inspect) -> None:
    said = inspect(picture, "--json")

    (dataset,) = json.loads(said.out)["datasets"]
    assert (dataset["type"], dataset["acquired"], dataset["acquired_from"]) == (
        "Image",
        "2024-05-06T10:00:00+00:00",
        "file",
    )
    assert {"name": "Acceleration Voltage", "value": "200", "unit": "kV"} in dataset["facts"]
    assert dataset["problem"] is None


def test_the_preview_is_written_where_it_is_wanted(picture: Path, tmp_path: Path, inspect: Inspect) -> None:
    said = inspect(picture, "--preview", tmp_path / "out.png")

    assert said.status == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_file_is_shown_with_the_reason(picture: Path, tmp_path: Path, inspect: Inspect) -> None:
    picture.write_bytes(picture.read_bytes()[:100])

    said = inspect(picture)

    assert said.status == 0
    assert "Type Unknown" in said.out
    assert "Problem DigitalMicrograph: it ends too early" in said.out
    assert "the file's modification time" in said.out


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_preview_that_there_is_not_is_an_error_and_the_rest_is_told(
    picture: Path, tmp_path: Path, inspect: Inspect, form: tuple[str, ...]
) -> None:
    picture.write_bytes(picture.read_bytes()[:100])

    said = inspect(picture, "--preview", tmp_path / "out.png", *form)

    assert said.status == 1
    assert "DigitalMicrograph: it ends too early" in said.out
    assert "There is no preview of a.dm3" in said.err
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(("name", "reason"), [("nothing.dm3", "There is no file"), (".", "is a folder")])
def test_what_is_no_file_is_an_error(tmp_path: Path, name: str, reason: str, inspect: Inspect) -> None:
    said = inspect(tmp_path / name)

    assert said.status == 1
    assert reason in said.err
    assert not said.out


def test_a_zone_nobody_knows_is_an_error(tmp_path: Path, inspect: Inspect) -> None:
    said = inspect(write_msa(tmp_path / "a.msa"), "--timezone", "Middle Earth")

    assert said.status == 1
    assert "Europe/Berlin" in said.err


def test_a_preview_that_cannot_be_written_is_an_error(picture: Path, tmp_path: Path, inspect: Inspect) -> None:
    said = inspect(picture, "--preview", tmp_path / "nowhere" / "out.png")

    assert said.status == 1
    assert "cannot be written" in said.err


def test_a_share_that_is_away_is_no_trouble_of_the_file(
    picture: Path, inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: FileReader, file: DataFile, **__: Any) -> NoReturn:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(file.path))

    monkeypatch.setattr(FileReader, "read", read)
    said = inspect(picture)

    assert said.status == 1
    assert f"cannot be read now: {os.strerror(errno.ESTALE)}" in said.err
