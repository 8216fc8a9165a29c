"""Takes from arrays of any size the few values that a preview shows; used by `preview`, in the child process only.

Arrays come as numpy's, often mapped from a file, or as dask's, read when asked. What is read in all is bounded, and a
mapped file is let go band by band, so that a preview of ten gigabytes takes neither their memory nor their time.
"""

import itertools
import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_PIXELS = 1000  # rows and columns of what is handed on; twice what a preview shows
MOST_POINTS = 1_000_000  # of one spectrum
MOST_BYTES_READ = 256 * 1024**2  # of a file that is mapped; above, values are left out at even distances
MOST_BYTES_DECODED = 1024**3  # of a file that is read chunk by chunk; above, only the middle of a scan is looked at
MOST_BYTES_AT_ONCE = 16 * 1024**2  # with what lies between the values, as the system reads ahead
MOST_FRAMES = 256  # that a mean is taken of

_LEAST_ROWS = 16  # of an image whose rows are so long that the bytes would allow fewer
_PAGE = 4096  # bytes; less than a page is never read
_READ_AROUND = 16 * _PAGE  # what Linux gives a process with a page, when it has it
_MAPPED_CHUNKS = "slice_memmap"  # what dask calls the chunks that RosettaSciIO maps

Array = npt.NDArray[Any]


def loaded(data: Any) -> Array:
    """All of an array, in memory: a dask one is computed, a sparse one filled."""
    if is_lazy(data):
        data = data.compute()
    return np.asarray(data.todense() if hasattr(data, "todense") else data)


def is_lazy(data: Any) -> bool:
    """Whether it is a dask array."""
    return hasattr(data, "dask")


def mapped(data: Any) -> Any:
    """The mapped file behind a dask array whose chunks are nothing but parts of one; any other array as it is.

    Of a mapped file that is read which is asked for; of dask's chunks each is looked at as a whole.
    """
    if not is_lazy(data) or not any(_MAPPED_CHUNKS in str(layer) for layer in getattr(data.dask, "layers", ())):
        return data
    chunk = data.blocks[(0,) * data.ndim].to_delayed().item().compute()  # which is not a copy, as of an array
    whole = chunk.base
    if not isinstance(whole, np.memmap):
        return data
    for found in (whole, *(whole[name] for name in whole.dtype.names or ())):  # frames may have headers between them
        same = found.shape == data.shape and found.dtype == data.dtype and found.strides == chunk.strides
        if same and found.__array_interface__["data"] == chunk.__array_interface__["data"]:
            return found
    return data


def numbers(values: Array) -> Array:
    """Values that can be added and compared: amplitudes of complex ones, floating point with as many digits."""
    if values.dtype.kind == "c":
        values = np.abs(values)
    exact_in_single = values.dtype.kind == "b" or values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
    return values.astype(np.float32 if exact_in_single else np.float64)


def image(data: Any) -> Array:
    """A two-dimensional array as numbers, with at most `MOST_PIXELS` rows and columns: each the mean of a block."""
    if is_lazy(data):
        data = loaded(_thinned(data))
    if abs(data.strides[0]) < abs(data.strides[1]):  # stored column by column, and read as it is stored
        turned: Array = image(data.T)
        return turned.T
    rows, columns = data.shape
    row_bytes = max(abs(data.strides[0]), columns * data.dtype.itemsize)
    affordable = max(_LEAST_ROWS, MOST_BYTES_READ // row_bytes)
    height = max(math.ceil(rows / MOST_PIXELS), math.ceil(rows / affordable))  # of a block
    width = math.ceil(columns / MOST_PIXELS)
    blocks, across = rows // height, columns // width
    used = _even(height, min(height, max(1, affordable // blocks)))  # rows of each block
    means = np.empty((blocks, across), np.float64)
    at_once = max(1, MOST_BYTES_AT_ONCE // (row_bytes * height))
    for first in range(0, blocks, at_once):
        last = min(first + at_once, blocks)
        band = data[first * height : last * height, : across * width]
        down = _added(numbers(band[row::height]) for row in used)
        means[first:last] = _added(down[:, column::width] for column in range(width))
        _let_go(data)
    means /= len(used) * width
    return means


def points(data: Any) -> tuple[Array, int]:
    """A one-dimensional array as numbers, and which of its values they are: every one, or every n-th."""
    size = data.shape[0]
    # Points so far apart that each is on a page of its own cost a page each.
    most = MOST_POINTS if size * data.dtype.itemsize <= MOST_BYTES_READ else MOST_BYTES_READ // _READ_AROUND
    step = max(1, math.ceil(size / most))
    if is_lazy(data) or step == 1:
        return numbers(loaded(data[::step])), step
    at_once = max(step, MOST_BYTES_AT_ONCE // data.dtype.itemsize // step * step)
    parts = []
    for first in range(0, size, at_once):
        parts.append(numbers(data[first : first + at_once : step]))
        _let_go(data)
    return np.concatenate(parts), step


def map_and_spectrum(cube: Any) -> tuple[Array, Array, int]:
    """A three-dimensional array added up along its last axis, and along the two others.

    The third value says which channels the spectrum has: every one, or every n-th. Of a large array the map has fewer
    points as well.
    """
    if is_lazy(cube):
        return *_sums_of_chunks(cube), 1
    steps = _cube_steps(cube)
    sample = cube[tuple(slice(None, None, step) for step in steps)]
    outer = _as_stored(cube)[0]
    at_once = max(1, MOST_BYTES_AT_ONCE // (cube.nbytes // cube.shape[outer] * steps[outer]))
    total, spectrum = np.zeros(sample.shape[:2]), np.zeros(sample.shape[2])
    for first in range(0, sample.shape[outer], at_once):
        band = tuple(slice(first, first + at_once) if axis == outer else slice(None) for axis in range(3))
        part = _sizes(sample[band])
        total[band[:2]] += part.sum(2, dtype=np.float64)
        spectrum[band[2]] += part.sum((0, 1), dtype=np.float64)
        _let_go(cube)
    return total, spectrum, steps[2]


def mean_frame(data: Any) -> tuple[Array, int]:
    """The mean of frames (the last two axes) taken evenly from all over the others, and how many they were."""
    count = data.ndim - 2
    if not is_lazy(data) and _as_stored(data)[-1] < count:
        return _mean_of_neighbours(data, _as_stored(data)[-1])
    frame_bytes = max(1, math.prod(data.shape[-2:]) * data.dtype.itemsize)
    most = max(1, min(MOST_FRAMES, MOST_BYTES_READ // 4 // frame_bytes))
    places = [_even(size, some) for size, some in zip(data.shape, _shared(most, data.shape[:count]), strict=False)]
    taken = math.prod(map(len, places))
    if is_lazy(data):
        for axis, place in enumerate(places):
            data = data[(slice(None),) * axis + (place,)]
        return image(loaded(data.map_blocks(_sizes).mean(tuple(range(count)), dtype=np.float64))), taken
    total = _added(image(_sizes(data[place])) for place in itertools.product(*places))
    return total / taken, taken


def _mean_of_neighbours(data: Any, fastest: int) -> tuple[Array, int]:
    """The mean of frames side by side: of a file that holds a map of the scan for every pixel of a frame.

    One frame lies all over such a file, and its neighbours on the same pages.
    """
    taken = min(MOST_FRAMES, data.shape[fastest])
    first = (data.shape[fastest] - taken) // 2
    places = [
        slice(first, first + taken) if axis == fastest else size // 2 for axis, size in enumerate(data.shape[:-2])
    ]
    frames = data[tuple(places)]
    means = np.empty(frames.shape[1:])
    at_once = max(1, MOST_BYTES_AT_ONCE // (_READ_AROUND * frames.shape[2]))
    for row in range(0, means.shape[0], at_once):
        means[row : row + at_once] = _sizes(frames[:, row : row + at_once]).mean(0, dtype=np.float64)
        _let_go(data)
    return image(means), taken


def _sums_of_chunks(cube: Any) -> tuple[Array, Array]:
    """Both sums of a dask array, of each chunk while it is there."""
    from dask import base

    cube = cube.map_blocks(_sizes) if cube.dtype.kind in "fc" else cube
    sums = cube.sum(2, dtype=np.float64), cube.sum((0, 1), dtype=np.float64)
    total, spectrum = base.compute(*sums)  # type: ignore[no-untyped-call]  # dask has no types
    return loaded(total), loaded(spectrum)


def middle_of_scan(data: Any, navigation: Sequence[int]) -> Any:
    """The array itself, or the middle of the scan of one that would have to be decoded for minutes."""
    if not is_lazy(data) or data.nbytes <= MOST_BYTES_DECODED or not navigation:
        return data
    share = (MOST_BYTES_DECODED / data.nbytes) ** (1 / len(navigation))
    cut = [slice(None)] * data.ndim
    for axis in navigation:
        size = data.shape[axis]
        kept = max(1, int(size * share))
        cut[axis] = slice((size - kept) // 2, (size - kept) // 2 + kept)
    return data[tuple(cut)]


def _thinned(data: Any) -> Any:
    """A dask image without the rows and columns that would be too many to load."""
    rows, columns = data.shape
    row_bytes = max(1, columns * data.dtype.itemsize)
    down = math.ceil(rows / max(_LEAST_ROWS, MOST_BYTES_READ // row_bytes))
    across = math.ceil(rows // down * row_bytes / (4 * MOST_BYTES_AT_ONCE))
    return data[::down, ::across]


def _as_stored(data: Array) -> list[int]:
    """The axes from that whose places lie furthest apart in the file to that whose places follow each other."""
    return sorted(range(data.ndim), key=lambda axis: -abs(data.strides[axis]))


def _cube_steps(cube: Array) -> list[int]:
    """How far apart the values taken from a cube are, along each axis; the last is that of the spectra."""
    steps, shape, stored = [1, 1, 1], cube.shape, _as_stored(cube)
    surplus = cube.nbytes / MOST_BYTES_READ
    if surplus <= 1:
        return steps
    first, second = (axis for axis in stored if axis != 2)
    if stored[0] == 2:  # a stack of maps: whole maps are left out
        steps[2] = math.ceil(surplus)
    elif shape[2] * cube.dtype.itemsize < _PAGE:  # leaving out points of a line would save no reading
        steps[first] = min(math.ceil(surplus), shape[first])
    else:
        steps[first] = min(math.ceil(math.sqrt(surplus)), shape[first])
        steps[second] = min(math.ceil(surplus / steps[first]), shape[second])
    return steps


def _shared(most: int, sizes: Sequence[int]) -> list[int]:
    """How many places to take along each axis, alike where their sizes allow, so that there are at most `most`."""
    counts = [1] * len(sizes)
    left = most
    for done, axis in enumerate(sorted(range(len(sizes)), key=lambda axis: sizes[axis])):
        counts[axis] = min(sizes[axis], max(1, math.floor(left ** (1 / (len(sizes) - done)) + 1e-9)))
        left //= counts[axis]
    return counts


def _even(size: int, count: int) -> list[int]:
    """`count` places spread evenly over `size`, as far from its ends as from each other."""
    return [(2 * index + 1) * size // (2 * count) for index in range(count)]


def _sizes(values: Array) -> Array:
    """The amplitudes of complex values; zero for what is no number or infinite, so that sums stay what they are."""
    if values.dtype.kind not in "fc":
        return values
    values = np.abs(values) if values.dtype.kind == "c" else values
    return values if np.isfinite(values).all() else np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _added(parts: Iterator[Array]) -> Array:
    total = next(parts).copy()
    for part in parts:
        total += part
    return total


def _let_go(data: Any) -> None:
    """Give back the memory of what was read of a mapped file; it is in the file still."""
    if data.flags.writeable:  # it may have been changed in memory only
        return
    owner = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
