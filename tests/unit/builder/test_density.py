"""The pauses that the density rule finds, compared with the same sums done the long way."""

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate, pairwise
from math import exp, inf, log
from random import Random

import pytest

from nexus_tasks.builder.density import BANDWIDTHS, best_bandwidth, pauses

STEPS = 2_000_000  # small steps of Python, a tenth of a second or so: the yardstick
MOST = 40  # times as long, for ten thousand files; all pairs of them would take thousands


def moments_of(kind: str, number: int, seed: int) -> list[int]:
    random = Random(f"{kind} {seed}")
    gaps: dict[str, Callable[[], int]] = {
        "steady": lambda: random.randint(20, 40),
        "random": lambda: 1 + int(random.expovariate(1 / 30)),
        "rare": lambda: int(random.paretovariate(0.9)),
        "groups": lambda: random.choice([1, 2, 5, 20, 20, 20, 2000]),
    }
    return list(accumulate(gaps[kind]() for _ in range(number)))


def likelihood(moments: list[int], bandwidth: float) -> float:
    """The leave-one-out log-likelihood, kernel by kernel."""
    total = -len(moments) * log(bandwidth)
    for here in moments:
        exponents = [-0.5 * ((here - other) / bandwidth) ** 2 for other in moments if other != here]
        largest = max(exponents)
        total += largest + log(sum(exp(exponent - largest) for exponent in exponents))
    return total


def density(moments: list[int], bandwidth: float, point: float) -> float:
    exponents = [-0.5 * ((point - moment) / bandwidth) ** 2 for moment in moments]
    largest = max(exponents)
    return largest + log(sum(exp(exponent - largest) for exponent in exponents))


def the_long_way(moments: list[int], sensitivity: float) -> list[int]:
    gaps = [after - before for before, after in pairwise(moments)]
    step = log(max(gaps) / min(gaps)) / (BANDWIDTHS - 1)
    candidates = [min(gaps) * exp(number * step) for number in range(BANDWIDTHS)]
    bandwidth = max(candidates, key=lambda candidate: likelihood(moments, candidate)) / sensitivity
    points = 10 * len(moments)
    grid = [moments[0] + (moments[-1] - moments[0]) * number / (points - 1) for number in range(points)]
    heights = [density(moments, bandwidth, point) for point in grid]
    minima = [
        point
        for point, before, here, after in zip(grid[1:], heights, heights[1:], heights[2:], strict=False)
        if here < before and here < after
    ]
    found = {sum(moment <= minimum for moment in moments) for minimum in minima}
    return sorted(position for position in found if gaps[position - 1] > bandwidth * (1 + 1e-9))


@pytest.mark.parametrize("sensitivity", [0.5, 1, 3])
@pytest.mark.parametrize("kind", ["steady", "random", "rare", "groups"])
def test_the_pauses_are_those_that_are_found_the_long_way(kind: str, sensitivity: float) -> None:
    for seed in range(6):
        moments = moments_of(kind, 15 + 9 * seed, seed)
        assert pauses(moments, sensitivity) == the_long_way(moments, sensitivity), (kind, seed)


@pytest.mark.parametrize("kind", ["steady", "random", "rare", "groups"])
def test_the_bandwidth_has_the_largest_likelihood(kind: str) -> None:
    moments = moments_of(kind, 200, 7)
    best = best_bandwidth(moments)
    gaps = [after - before for before, after in pairwise(moments)]
    factor = (max(gaps) / min(gaps)) ** (1 / (BANDWIDTHS - 1))
    for other in (best / factor, best * factor):
        if min(gaps) <= other <= max(gaps):
            assert likelihood(moments, best) > likelihood(moments, other)


def test_a_pause_whose_middle_lies_between_two_points_of_the_grid_is_seen() -> None:
    assert pauses([0, 10, 20, 1000, 1010, 1020]) == [3]


def test_one_moment_and_two_have_no_pause() -> None:
    assert pauses([]) == []
    assert pauses([5]) == []
    assert pauses([5, 5000]) == []


def test_where_the_times_begin_makes_no_difference() -> None:
    moments = moments_of("groups", 80, 3)
    assert pauses([moment + 1_700_000_000 for moment in moments]) == pauses(moments)
    assert pauses([moment - 2_000_000_000 for moment in moments]) == pauses(moments)


@pytest.mark.parametrize(
    "moments",
    [
        moments_of("steady", 10_000, 1),
        moments_of("rare", 10_000, 1),
        moments_of("groups", 10_000, 1),
        [*range(9_999), 30_000],
        [*range(5_000), *range(100_000, 105_000)],
    ],
    ids=["steady", "rare", "groups", "one far away", "two crowds"],
)
def test_ten_thousand_files_are_compared_without_looking_at_every_pair(moments: list[int]) -> None:
    """Beside a yardstick: what else the machine does slows both down alike."""
    least = inf
    for _ in range(3):
        least = min(least, processor_time(lambda: pauses(moments)) / processor_time(small_steps))
        if least < MOST:
            break
    assert least < MOST


def processor_time(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def small_steps() -> int:
    return sum(number & 1 for number in range(STEPS))


def test_nothing_depends_on_numpy() -> None:
    program = "import sys; import nexus_tasks.builder.activities; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
