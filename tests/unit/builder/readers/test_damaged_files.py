"""Whatever happened to a file, it is a dataset: in time, within the memory, and with the reason."""

import importlib
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import require_module

require_module("rsciio", "nexus-tasks[readers]")

import numpy as np  # noqa: E402 after the requirement
import tifffile  # noqa: E402

from nexus_tasks.builder.readers import FileReader  # noqa: E402
from nexus_tasks.builder.readers.base import DatasetType  # noqa: E402
from nexus_tasks.builder.record import SessionToBuild, build_record  # noqa: E402
from tests.unit.builder.readers import made_files  # noqa: E402
from tests.unit.builder.readers.made_files import data_file  # noqa: E402

TIMEOUT = 10.0  # seconds; what is whole is read in some hundredths, unless the machine is very busy
RESTART = 20.0  # seconds to end a child and start the next, on such a machine
MEMORY = 512 * 1024**2  # bytes
LIBRARIES = 256 * 1024**2  # bytes: code and shared pages, which the limit on data does not count
TRUNCATIONS, FLIPS = 14, 14
NOW = datetime.now(UTC)

PICTURE = np.arange(24 * 32, dtype=np.int16).reshape(24, 32)
FRAMES = np.arange(3 * 8 * 6, dtype=np.uint16).reshape(3, 8, 6)

# A GPL-3 writer makes the HDF5 formats, in a process of its own.
HSPY = """
import sys, numpy as np
from rsciio.hspy import file_writer
axes = [{"name": n, "size": s, "scale": 0.5, "offset": 0.0, "units": u, "navigate": v, "_type": "UniformDataAxis"}
        for n, s, u, v in [("y", 3, "nm", True), ("x", 4, "nm", True), ("E", 16, "keV", False)]]
file_writer(sys.argv[1], {"data": np.arange(192.0).reshape(3, 4, 16), "axes": axes, "learning_results": {},
    "metadata": {"General": {"title": "t"}, "Signal": {"signal_type": ""}, "_HyperSpy": {}}, "original_metadata": {},
    "attributes": {"_lazy": False, "ragged": False}, "models": None, "package_info": {},
    "tmp_parameters": {}})
"""


def tif(path: Path) -> Path:
    tifffile.imwrite(path, PICTURE, description="made", metadata=None)
    return path


def tagged_tif(path: Path) -> Path:
    lines = b"HV=15000.0\nPixelSizeX=0.000000001\nPixelSizeY=0.000000001\n"
    tag = (len(lines) + 2).to_bytes(4, "little") + b"\x03\0" + lines + b"\x02\0\0\0\0\0"
    tifffile.imwrite(path, PICTURE, extratags=[(50431, 1, len(tag), tag, True)], metadata=None)
    return path


def emd(path: Path) -> Path:
    """The layout of the Berkeley EMD format."""
    h5py: Any = importlib.import_module("h5py")  # ships no types
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group("data").create_group("picture")
        group.attrs["emd_group_type"] = 1
        group["data"] = PICTURE
        for number, size in enumerate(PICTURE.shape, 1):
            axis = group.create_dataset(f"dim{number}", data=np.arange(size) * 0.5)
            axis.attrs["name"], axis.attrs["units"] = "yx"[number - 1], "[n_m]"
    return path


def hspy(path: Path) -> Path:
    subprocess.run([sys.executable, "-c", HSPY, str(path)], check=True)
    return path


def ser(path: Path) -> Path:
    made_files.write_emi(path.with_name(path.name.replace("_1.ser", ".emi")), made_files.description())
    return made_files.write_ser(path, FRAMES, scan=[(3, 1.0, "")])


Make = Callable[[Path], Path]
FORMATS: dict[str, tuple[Make, DatasetType]] = {
    "a.dm3": (lambda path: made_files.write_dm(path, PICTURE, tags=made_files.DM_TAGS), "Image"),
    "a.dm4": (lambda path: made_files.write_dm(path, PICTURE, tags=made_files.DM_TAGS), "Image"),
    "a_1.ser": (ser, "Image"),
    "a.tif": (tif, "Image"),
    "tagged.tif": (tagged_tif, "Image"),
    "a.msa": (made_files.write_msa, "Spectrum"),
    "a.spc": (made_files.write_spc, "Spectrum"),
    "a.mrc": (lambda path: made_files.write_mrc(path, PICTURE.reshape(2, 12, 32)), "Image"),
    "a.emd": (emd, "Image"),
    "a.hspy": (hspy, "SpectrumImage"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: make(folder / name) for name, (make, _) in FORMATS.items()}


@pytest.fixture(scope="module")
def reader() -> Iterator[FileReader]:
    with FileReader(timeout_s=TIMEOUT, memory_limit=MEMORY) as reader:
        yield reader


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_read_while_it_is_whole(name: str, whole: dict[str, Path], reader: FileReader) -> None:
    datasets = reader.read(data_file(whole[name]))

    assert [(dataset.type, dataset.problem, dataset.preview is None) for dataset in datasets] == [
        (FORMATS[name][1], None, False)
    ]


def damaged(raw: bytes, seed: str) -> Iterator[bytes]:
    """Truncations everywhere, more of them in the header, and bit flips, most of them in the header."""
    chance = random.Random(seed)
    header = max(64, len(raw) // 4)
    for number in range(TRUNCATIONS):
        yield raw[: chance.randrange(header if number % 2 else len(raw))]
    for number in range(FLIPS):
        flipped = bytearray(raw)
        for _ in range(1 + number % 4):
            flipped[chance.randrange(header if number % 3 else len(raw))] ^= 1 << chance.randrange(8)
        yield bytes(flipped)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_datasets_of_a_valid_record_in_time_and_within_the_memory(
    name: str, whole: dict[str, Path], tmp_path: Path, reader: FileReader
) -> None:
    folder = tmp_path / "TEM"
    folder.mkdir()
    for number, raw in enumerate(damaged(whole[name].read_bytes(), name)):
        path = folder / f"{number}_{name}"
        path.write_bytes(raw)
        if name == "a_1.ser":
            (folder / f"{number}_a.emi").write_bytes(whole[name].with_name("a.emi").read_bytes())
        started = time.monotonic()
        datasets = reader.read(data_file(path))
        taken = time.monotonic() - started

        assert datasets
        for dataset in datasets:
            assert dataset.type != "Unknown" or dataset.problem
            assert dataset.acquired is not None
            assert dataset.problem is None or len(dataset.problem) <= 300
        assert taken < TIMEOUT + RESTART
        assert peak_memory(reader) < MEMORY + LIBRARIES
    assert sum(path.suffix != ".emi" for path in folder.iterdir()) == TRUNCATIONS + FLIPS

    week = timedelta(days=7)
    session = SessionToBuild("s", "tem-1", "TEM", Path("TEM"), NOW - week, NOW + week, None, UTC)
    record = build_record(session, data_root=tmp_path, preview_root=tmp_path / "previews", reader=reader)
    assert record is not None  # and it is valid: `build_record` looks
    assert sum(len(set(activity["files"])) for activity in record.activities) == TRUNCATIONS + FLIPS


def test_a_damaged_description_beside_a_series_does_no_harm(
    whole: dict[str, Path], tmp_path: Path, reader: FileReader
) -> None:
    path = tmp_path / "a_1.ser"
    path.write_bytes(whole["a_1.ser"].read_bytes())
    for raw in damaged(whole["a_1.ser"].with_name("a.emi").read_bytes(), "emi"):
        (tmp_path / "a.emi").write_bytes(raw)
        (dataset,) = reader.read(data_file(path))

        assert (dataset.type, dataset.problem) in {("Image", None), ("Diffraction", None)}


def peak_memory(reader: FileReader) -> int:
    """The most memory that the child has ever held, in bytes; of an ended child what the system remembers."""
    child = reader._child
    if child is None:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    status = Path(f"/proc/{child._process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
