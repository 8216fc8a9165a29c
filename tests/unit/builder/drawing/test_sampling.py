"""How much of an array is read for a preview, and what is taken of it; needs the `readers` extra."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")

from nexus_tasks.builder.drawing import sampling  # noqa: E402 after the skip
from tests.requirements import require  # noqa: E402

LARGE = 10 * 1024**3  # bytes
MOST_MEMORY = 100 * 1024**2

# Draws one mapped file of the given shape in a process of its own, and says by how many KiB its memory grew.
DRAW = """
import re, sys
import numpy as np
from nexus_tasks.builder.readers.layout import Axis, Layout
from nexus_tasks.builder.drawing.preview import render

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

path, dtype, order, signal, *shape = sys.argv[1:]
shape, signal = tuple(map(int, shape)), int(signal)
axes = tuple(Axis("a", "nm", size, 1.0, 0.0, None) for size in shape)
count = len(shape)
render(np.ones((1200, 900)), Layout(axes[:1] * 2, (0, 1), ()))
data = np.memmap(path, dtype, "r", shape=shape, order=order)
before = peak()
drawn = render(data, Layout(axes, tuple(range(count - signal, count)), tuple(range(count - signal))))
print(peak() - before if drawn.startswith(b"\\x89PNG") else "nothing")
"""


@pytest.fixture
def large_file(tmp_path: Path) -> Iterator[Path]:
    require(Path("/proc/self/status").exists(), "the memory of a process is known on Linux only")
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(LARGE)
    if path.stat().st_blocks:
        require(condition=False, reason="this file system has no sparse files")
    yield path
    path.unlink()


@pytest.mark.parametrize(
    ("shape", "dtype", "order", "signal"),
    [
        ((51200, 51200), "f4", "C", 2),  # an image
        ((600, 2048, 2048), "f4", "C", 2),  # a stack
        ((1000, 1250, 2048), "f4", "C", 1),  # a spectrum image, spectrum by spectrum
        ((1250, 1000, 2048), "f4", "F", 1),  # map by map
        ((256, 306, 256, 256), "u2", "C", 2),  # a scan with diffraction patterns
        ((2500, 1_000_000), "f4", "C", 1),  # a line scan
        ((2_600_000_000,), "f4", "C", 1),  # a spectrum
    ],
)
def test_ten_gigabytes_are_drawn_with_a_hundredth_of_them(
    large_file: Path, shape: tuple[int, ...], dtype: str, order: str, signal: int
) -> None:
    command = [sys.executable, "-c", DRAW, str(large_file), dtype, order, str(signal), *map(str, shape)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"\d+\n", run.stdout)
    assert int(run.stdout) * 1024 < MOST_MEMORY


def test_small_arrays_are_taken_whole() -> None:
    values = np.random.default_rng(1).normal(size=(700, 900)).astype(np.float32)

    assert np.allclose(sampling.image(values), values)


def test_large_images_become_the_means_of_blocks() -> None:
    values = np.random.default_rng(1).integers(0, 60000, (2100, 4000)).astype(np.uint16)

    assert np.allclose(sampling.image(values), values.reshape(700, 3, 1000, 4).mean((1, 3)))
    assert np.allclose(sampling.image(np.asfortranarray(values)), sampling.image(values))


def test_values_that_single_precision_cannot_tell_apart_stay_apart() -> None:
    values = 2**40 + np.arange(4).reshape(2, 2)

    assert sampling.image(values).tolist() == values.tolist()


def test_a_cube_is_added_up_both_ways_however_it_is_stored() -> None:
    cube = np.random.default_rng(1).integers(0, 100, (20, 30, 40)).astype(np.uint8)
    for stored in (cube, np.asfortranarray(cube), np.ascontiguousarray(np.moveaxis(cube, 2, 0)).transpose(1, 2, 0)):
        total, spectrum, step = sampling.map_and_spectrum(stored)

        assert step == 1
        assert (total == cube.sum(2)).all()
        assert (spectrum == cube.sum((0, 1))).all()


def test_one_value_that_is_no_number_does_not_spoil_a_sum() -> None:
    cube = np.ones((4, 5, 6))
    cube[0, 0, 0], cube[1, 1, 1] = np.nan, np.inf

    total, spectrum, _ = sampling.map_and_spectrum(cube)

    assert total[0, 0] == 5
    assert spectrum.tolist() == [19, 19, 20, 20, 20, 20]


def test_a_cube_too_large_to_read_keeps_whole_spectra(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = np.random.default_rng(1).integers(0, 9, (64, 64, 4096)).astype(np.uint8)
    monkeypatch.setattr(sampling, "MOST_BYTES_READ", cube.nbytes // 16)

    total, spectrum, step = sampling.map_and_spectrum(cube)

    assert step == 1
    assert (total == cube[::4, ::4].sum(2)).all()
    assert (spectrum == cube[::4, ::4].sum((0, 1))).all()


def test_a_stack_of_maps_too_large_to_read_keeps_whole_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = np.random.default_rng(1).integers(0, 9, (100, 64, 64)).astype(np.uint8).transpose(1, 2, 0)
    monkeypatch.setattr(sampling, "MOST_BYTES_READ", cube.nbytes // 4)

    total, spectrum, step = sampling.map_and_spectrum(cube)

    assert (step, total.shape, spectrum.shape) == (4, (64, 64), (25,))
    assert (spectrum == cube[:, :, ::4].sum((0, 1))).all()


def test_the_mean_of_few_frames_is_of_all_and_of_many_of_an_even_selection() -> None:
    few = np.random.default_rng(1).normal(size=(5, 6, 16, 16))
    many = np.random.default_rng(1).normal(size=(40, 50, 16, 16))

    assert np.allclose(sampling.mean_frame(few)[0], few.mean((0, 1)))
    assert sampling.mean_frame(few)[1] == 30
    assert sampling.mean_frame(many)[1] == sampling.MOST_FRAMES
    assert np.allclose(
        sampling.mean_frame(many)[0],
        many[[1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38]][
            :, [1, 4, 7, 10, 14, 17, 20, 23, 26, 29, 32, 35, 39, 42, 45, 48]
        ].mean((0, 1)),
    )


def test_frames_that_lie_all_over_a_file_are_taken_side_by_side() -> None:
    stored = np.random.default_rng(1).normal(size=(16, 18, 5, 300))
    data = stored.transpose(2, 3, 0, 1)

    mean, count = sampling.mean_frame(data)

    assert count == sampling.MOST_FRAMES
    assert np.allclose(mean, data[2, 22 : 22 + count].mean(0))


class TestDask:
    """Arrays as RosettaSciIO hands them over."""

    def test_chunks_give_the_same_as_the_array_itself(self) -> None:
        da: Any = pytest.importorskip("dask.array")
        random = np.random.default_rng(1)
        image, cube = random.normal(size=(1500, 1300)), random.integers(0, 9, (50, 60, 70))
        patterns = random.normal(size=(6, 7, 20, 20))

        assert np.allclose(sampling.image(da.from_array(image, chunks=400)), sampling.image(image))
        assert np.allclose(sampling.points(da.from_array(image[0], chunks=400))[0], image[0])
        for lazy, whole in zip(
            sampling.map_and_spectrum(da.from_array(cube, chunks=30)), sampling.map_and_spectrum(cube), strict=True
        ):
            assert np.array_equal(lazy, whole)
        assert np.allclose(sampling.mean_frame(da.from_array(patterns, chunks=4))[0], sampling.mean_frame(patterns)[0])

    def test_of_a_scan_that_takes_minutes_to_decode_only_the_middle_is_looked_at(self) -> None:
        da: Any = pytest.importorskip("dask.array")
        scan = da.zeros((1000, 1000, 2000), chunks=(100, 100, 2000), dtype=np.uint16)

        middle = sampling.middle_of_scan(scan, (0, 1))

        assert middle.nbytes <= sampling.MOST_BYTES_DECODED
        assert middle.shape == (518, 518, 2000)
        assert sampling.middle_of_scan(scan[:100], (0, 1)).shape == (100, 1000, 2000)

    def test_a_mapped_file_is_found_behind_its_chunks(self, tmp_path: Path) -> None:
        file = pytest.importorskip("rsciio.utils.file")
        values = np.arange(64 * 1024, dtype=np.uint16).reshape(16, 64, 64)
        values.tofile(tmp_path / "raw")
        lazy = file.memmap_distributed(str(tmp_path / "raw"), values.dtype, shape=values.shape, chunks=(4, 32, 32))

        found: Any = sampling.mapped(lazy)

        assert isinstance(found, np.memmap)
        assert (found == values).all()
        for changed in (lazy[::-1], lazy[:, :32], lazy.transpose(0, 2, 1), lazy + 1, lazy.astype(np.int16)):
            assert sampling.mapped(changed) is changed

    def test_a_mapped_file_is_found_behind_frames_with_headers(self, tmp_path: Path) -> None:
        file = pytest.importorskip("rsciio.utils.file")
        frames = np.zeros(10, [("header", "S16"), ("data", "<u2", (8, 8))])
        frames["data"] = np.arange(640).reshape(10, 8, 8)
        frames.tofile(tmp_path / "raw")
        lazy = file.memmap_distributed(str(tmp_path / "raw"), frames.dtype, shape=(10,), chunks=(4, 8, 8), key="data")

        found: Any = sampling.mapped(lazy)

        assert not sampling.is_lazy(found)
        assert (found == frames["data"]).all()
