"""Who reads a file: the first that fits and can."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import FileReader, basic, order
from nexus_tasks.builder.readers.base import DamagedFileError, Dataset, Reader, UnreadableError
from tests.requirements import require_module
from tests.unit.builder.readers.made_files import data_file


class Made:
    """A reader for one extension, which does what it is told."""

    def __init__(self, name: str, extension: str, error: BaseException | None = None) -> None:
        self.name, self._extension, self._error = name, extension, error

    def fits(self, file: DataFile) -> bool:
        return file.path.suffix == self._extension

    def read(self, file: DataFile) -> Iterator[Dataset]:
        yield replace(basic.read(file)[0], reader=self.name)
        if self._error is not None:
            raise self._error


@pytest.fixture
def file(tmp_path: Path) -> DataFile:
    path = tmp_path / "a.abc"
    path.write_bytes(b"data")
    return data_file(path)


def test_the_first_that_fits_reads(file: DataFile) -> None:
    readers: list[Reader] = [Made("other", ".xyz"), Made("first", ".abc"), Made("second", ".abc")]

    assert [dataset.reader for dataset in order.read(file, readers)] == ["first"]


def test_what_one_cannot_read_falls_to_the_next_and_nothing_half_read_is_kept(file: DataFile) -> None:
    readers: list[Reader] = [Made("first", ".abc", RuntimeError("no")), Made("second", ".abc")]

    assert [dataset.reader for dataset in order.read(file, readers)] == ["second"]


def test_when_all_fail_each_says_why(file: DataFile) -> None:
    readers: list[Reader] = [
        Made("first", ".abc", RuntimeError("no")),
        Made("second", ".abc", DamagedFileError("it is cut off")),
    ]

    with pytest.raises(UnreadableError, match="first: RuntimeError: no; second: it is cut off"):
        order.read(file, readers)


def test_a_file_for_nobody_has_the_facts_of_any_file(file: DataFile) -> None:
    (dataset,) = order.read(file, [])

    assert (dataset.reader, dataset.type, dataset.problem) == ("basic", "Unknown", None)


def test_want_of_memory_ends_the_reading(file: DataFile) -> None:
    with pytest.raises(MemoryError):
        order.read(file, [Made("first", ".abc", MemoryError()), Made("second", ".abc")])


PLUGIN = """
from dataclasses import replace
from nexus_tasks.builder.readers import basic

class Lab:
    name = "lab"
    def fits(self, file):
        return file.path.suffix == ".lab"
    def read(self, file):
        yield replace(basic.read(file)[0], reader=self.name, type="Image")
"""


def installed(folder: Path, module: str, source: str, entry: str) -> None:
    """A package with a reader, as an installer leaves it."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[nexus_tasks.readers]\n{entry}\n")


def test_a_reader_of_another_package_is_found_and_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_module("rsciio", "nexus-tasks[readers]")
    installed(tmp_path, "lab_reader", PLUGIN, "lab = lab_reader:Lab")
    installed(tmp_path, "broken_reader", "raise RuntimeError('not today')", "broken = broken_reader:Broken")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "a.lab").write_bytes(b"x")

    with FileReader() as reader:
        (dataset,) = reader.read(data_file(tmp_path / "a.lab"))

    assert (dataset.reader, dataset.type) == ("lab", "Image")
    assert reader.remarks == ("The reader broken (broken_reader:Broken) is left out: RuntimeError: not today",)
