"""Files larger than the memory: their headers are read, and as much of the data as a preview needs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import require_module

require_module("rsciio", "nexus-tasks[readers]")

from nexus_tasks.builder.readers import Dataset, FileReader  # noqa: E402 after the requirement
from tests.unit.builder.readers.made_files import (  # noqa: E402
    DM_TAGS,
    data_file,
    description,
    write_dm,
    write_emi,
    write_msa,
    write_ser,
)

MORE = 200 * 1024**2  # bytes
GIGABYTE = 10**9


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[FileReader]:
    """A warm one: the libraries are loaded and have drawn something."""
    with FileReader() as reader:
        reader.read(data_file(write_msa(tmp_path / "small.msa")))
        yield reader


def read(path: Path, reader: FileReader) -> tuple[Dataset, int]:
    """The dataset, and how many bytes of memory reading it took beyond the most that there were before."""
    assert path.stat().st_blocks * 512 < 50 * 1024**2  # the values are holes: no disk is filled
    before = peak_memory(reader)
    (dataset,) = reader.read(data_file(path))
    return dataset, peak_memory(reader) - before


def peak_memory(reader: FileReader) -> int:
    child = reader._child
    assert child is not None
    status = Path(f"/proc/{child._process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def facts(dataset: Dataset) -> dict[str, str]:
    return {fact.name: f"{fact.value} {fact.unit or ''}".strip() for fact in dataset.facts}


@pytest.mark.parametrize(
    ("shape", "units", "kind"),
    [
        ((1250, 2000, 2000), [(1.0, "s"), (0.5, "nm"), (0.5, "nm")], "Image"),
        ((50000, 100000), [(0.5, "nm"), (0.5, "nm")], "Image"),
        ((2000, 1250, 2000), [(10.0, "eV"), (0.5, "nm"), (0.5, "nm")], "SpectrumImage"),
    ],
)
def test_a_dm4_of_ten_gigabytes(
    shape: tuple[int, ...], units: list[tuple[float, str]], kind: str, tmp_path: Path, reader: FileReader
) -> None:
    told = {"Meta Data": {"Format": "Spectrum image", "Signal": "EELS"}} if kind == "SpectrumImage" else {}
    path = write_dm(tmp_path / "big.dm4", shape=shape, kind="int16", units=units, tags={**DM_TAGS, **told})
    assert path.stat().st_size > 9.9 * GIGABYTE

    dataset, more = read(path, reader)

    assert (dataset.type, dataset.problem) == (kind, None)
    assert dataset.preview is not None
    assert facts(dataset)["Acceleration Voltage"] == "200 kV"
    assert more < MORE


@pytest.mark.parametrize(
    ("scan", "shape", "kind"),
    [
        ([(512, 1e-9, "meters")], (1024, 2048), "Image"),
        ([(64, 1e-9, "meters"), (64, 1e-9, "meters")], (262144,), "SpectrumImage"),
        ([], (32768, 32768), "Image"),
    ],
)
def test_a_ser_of_two_gigabytes(
    scan: list[tuple[int, float, str]], shape: tuple[int, ...], kind: str, tmp_path: Path, reader: FileReader
) -> None:
    path = write_ser(tmp_path / "big_1.ser", scan=scan, shape=shape, calibration=[(0.0, 1e-9), (0.0, 1e-9)])
    write_emi(tmp_path / "big.emi", description())
    assert path.stat().st_size > 2 * GIGABYTE

    dataset, more = read(path, reader)

    assert (dataset.type, dataset.problem) == (kind, None)
    assert dataset.preview is not None
    assert facts(dataset)["Acceleration Voltage"] == "200 kV"
    assert more < MORE
