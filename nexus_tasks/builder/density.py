"""Finds the pauses in a session by the density of its files in time, as NexusLIMS does; called by `activities`.

The times are smoothed with a Gaussian kernel. Of 35 bandwidths, from the shortest gap between two files to the longest,
the one is taken under which every file is best foretold by all others (the largest leave-one-out likelihood); where the
density then has a minimum, an activity ends. NexusLIMS asks scikit-learn; here the likelihood is summed in closed form.

Plain Python, so that the result never depends on what else is installed. The work grows with the number of files, not
with its square: where files crowd, their kernels are summed as one power series around the middle of the crowd.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil, exp, floor, hypot, inf, log
from operator import mul

BANDWIDTHS = 35
GRID_POINTS = 10  # per moment: how finely the density is looked at, NexusLIMS's number

# In bandwidths: where a kernel is cut off. It has fallen to 2e-8 of its height, or to 3e-18 where slopes are compared.
_REACH_FOR_LIKELIHOOD = 6.0
_REACH_FOR_SLOPES = 9.0
# Terms of the power series, for points up to half a bandwidth from its middle: it is right to 1e-8, or to 1e-13.
_TERMS_FOR_LIKELIHOOD = 11
_TERMS_FOR_SLOPES = 20
_CROWD = 4  # points in one bandwidth from which the series is less work than the single kernels
_LONELY = 2.0  # bandwidths to the nearest file from which all kernels are small, and are measured by the largest
_REAL_PAUSE = 1 + 1e-9  # bandwidths; a gap that is longer than one by rounding only is none


def pauses(moments: Sequence[int], sensitivity: float = 1.0) -> list[int]:
    """The positions in `moments` at which a new activity begins.

    `moments` are whole seconds, sorted, each once. The bandwidth is divided by `sensitivity`: a larger one finds more
    pauses, 0 finds none. Two things differ from NexusLIMS. A minimum counts only in a gap that is longer than the
    bandwidth: between files that lie closer it is chance, which takes bursts and regular series to pieces. And a
    minimum that lies in the middle between two points of the grid is seen, where NexusLIMS sees none.
    """
    if sensitivity == 0 or len(moments) < 2:
        return []
    moments = [moment - moments[0] for moment in moments]
    bandwidth = best_bandwidth(moments) / sensitivity
    return [
        position
        for position, (before, after) in enumerate(pairwise(moments), start=1)
        if after - before > bandwidth * _REAL_PAUSE and _has_minimum(moments, before, after, bandwidth)
    ]


def best_bandwidth(moments: Sequence[int]) -> float:
    """The bandwidth, in seconds, with the largest leave-one-out likelihood; the shortest of several as good ones."""
    gaps = [after - before for before, after in pairwise(moments)]
    shortest, longest = log(min(gaps)), log(max(gaps))
    step = (longest - shortest) / (BANDWIDTHS - 1)
    candidates = [exp(shortest + number * step) for number in range(BANDWIDTHS if step else 1)]
    return max(candidates, key=lambda bandwidth: _likelihood(moments, bandwidth))


# --- the likelihood


def _likelihood(moments: Sequence[int], bandwidth: float) -> float:
    """The logarithm of the leave-one-out likelihood, but for a constant."""
    reach = _REACH_FOR_LIKELIHOOD * bandwidth
    kernel = _Kernel(bandwidth)
    total = -len(moments) * log(bandwidth)
    for begin, end in _stretches(moments, bandwidth):
        if end - begin < _CROWD:
            total += sum(_one_by_the_others(moments, position, bandwidth, kernel) for position in range(begin, end))
        else:
            first, last = moments[begin], moments[end - 1]
            near = moments[bisect_left(moments, first - reach) : bisect_right(moments, last + reach)]
            sums = _sums_by_series(moments[begin:end], near, bandwidth, _TERMS_FOR_LIKELIHOOD)
            total += sum([log(each - 1) for each in sums])  # without its own kernel
    return total


def _one_by_the_others(moments: Sequence[int], position: int, bandwidth: float, kernel: "_Kernel") -> float:
    """The logarithm of the sum of the kernels of all other moments at that of `position`."""
    here = moments[position]
    before = here - moments[position - 1] if position else inf
    after = moments[position + 1] - here if position + 1 < len(moments) else inf
    nearest = min(before, after)
    if nearest > _LONELY * bandwidth:
        return _log_sum(moments, here, nearest, bandwidth, _REACH_FOR_LIKELIHOOD, itself=False)
    reach = _REACH_FOR_LIKELIHOOD * bandwidth
    near = moments[bisect_left(moments, here - reach) : bisect_right(moments, here + reach)]
    return log(sum([kernel[moment - here] for moment in near]) - 1)


class _Kernel(dict[int, float]):
    """The kernel by distance in seconds, each computed once: files often lie a few seconds apart."""

    def __init__(self, bandwidth: float) -> None:
        super().__init__()
        self._factor = -0.5 / bandwidth**2

    def __missing__(self, distance: int) -> float:
        self[distance] = kernel = exp(self._factor * distance * distance)
        return kernel


# --- the minima


def _has_minimum(moments: Sequence[int], before: int, after: int, bandwidth: float) -> bool:
    """Whether the density, looked at on the grid, falls and rises again between two neighbouring moments."""
    last_point = GRID_POINTS * len(moments) - 1
    step = moments[-1] / last_point
    first, last = max(floor(before / step), 0), min(ceil(after / step), last_point)  # one beyond the gap on each side
    # More than a bandwidth away from both moments every kernel is convex, and so is the density: in this middle it
    # falls, then rises, and how it begins and ends tells all.
    begin, end = ceil((before + bandwidth) / step), floor((after - bandwidth) / step)
    parts = [range(first, begin + 2), range(end - 1, last + 1)] if end - begin > 3 else [range(first, last + 1)]
    falling = False
    for part in parts:
        for earlier, later in pairwise(_log_densities(moments, [number * step for number in part], bandwidth)):
            if later > earlier and falling:
                return True
            falling = falling or later < earlier
    return False


def _log_densities(moments: Sequence[int], points: Sequence[float], bandwidth: float) -> Iterator[float]:
    """The logarithm of the density at each of the points, which are sorted, but for a constant."""
    reach = _REACH_FOR_SLOPES * bandwidth
    for begin, end in _stretches(points, bandwidth):
        stretch = points[begin:end]
        distances = [_distance_to_nearest(moments, point) for point in stretch]
        if len(stretch) < _CROWD or max(distances) > _LONELY * bandwidth:
            for point, nearest in zip(stretch, distances, strict=True):
                yield _log_sum(moments, point, nearest, bandwidth, _REACH_FOR_SLOPES)
        else:
            near = moments[bisect_left(moments, stretch[0] - reach) : bisect_right(moments, stretch[-1] + reach)]
            yield from map(log, _sums_by_series(stretch, near, bandwidth, _TERMS_FOR_SLOPES))


def _distance_to_nearest(moments: Sequence[int], point: float) -> float:
    position = bisect_left(moments, point)
    return min(abs(point - moment) for moment in moments[max(position - 1, 0) : position + 1])


# --- sums of kernels


def _stretches(points: Sequence[float], bandwidth: float) -> Iterator[tuple[int, int]]:
    """The points cut into stretches of less than one bandwidth: where each begins, and where it has ended."""
    begin = 0
    while begin < len(points):
        end = bisect_left(points, points[begin] + bandwidth, begin + 1)
        yield begin, end
        begin = end


def _log_sum(
    moments: Sequence[int], here: float, nearest: float, bandwidth: float, reach: float, *, itself: bool = True
) -> float:
    """The logarithm of the sum of the kernels at `here`, however small they are; one at `here` only with `itself`."""
    factor = -0.5 / bandwidth**2
    longest = hypot(nearest, reach * bandwidth)
    near = moments[bisect_left(moments, here - longest) : bisect_right(moments, here + longest)]
    largest = factor * nearest * nearest
    kernels = [exp(factor * (moment - here) ** 2 - largest) for moment in near if itself or moment != here]
    return largest + log(sum(kernels))


def _sums_by_series(points: Sequence[float], near: Sequence[int], bandwidth: float, terms: int) -> list[float]:
    """The sum of the kernels of `near` at each of the points, which lie within one bandwidth.

    In bandwidths from the middle, with a point at u and a moment at v, the kernel exp(-(u-v)²/2) is
    exp(-u²/2) · exp(-v²/2) · Σ (uv)^k / k!, where u and v part: the sums over v serve for all points.
    """
    middle = (points[0] + points[-1]) / 2
    places = [(moment - middle) / bandwidth for moment in near]
    weighted = [exp(-0.5 * place * place) for place in places]
    coefficients = [sum(weighted)]
    factorial = 1
    for power in range(1, terms):
        weighted = list(map(mul, weighted, places))
        factorial *= power
        coefficients.append(sum(weighted) / factorial)
    offsets = [(point - middle) / bandwidth for point in points]
    sums = [0.0] * len(points)
    for coefficient in reversed(coefficients):
        sums = [each * offset + coefficient for each, offset in zip(sums, offsets, strict=True)]
    return [each * exp(-0.5 * offset * offset) for each, offset in zip(sums, offsets, strict=True)]
