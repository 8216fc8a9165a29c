"""How files become activities."""

import importlib.util
import itertools
import tarfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.builder.activities import ActivityRule, group
from nexus_tasks.builder.files import DataFile, list_files

START = datetime(2024, 5, 1, tzinfo=UTC)
SHARED = Path(__file__).resolve().parents[4] / "shared"
PROTOTYPE = SHARED / "reference" / "cluster_mtimes.py"
RULES: tuple[ActivityRule, ...] = ("density", "gap")
INSTRUMENTS = ("Titan_TEM", "JEOL_TEM", "Nexus_Test_Instrument", "Tofwerk_pFIB_TOFSIMS")
THREE_SAMPLES = [0, 30, 60, 100, *range(3000, 3400, 25), *range(9000, 9200, 40)]


def files(*seconds: float) -> list[DataFile]:
    return [
        DataFile(Path(f"/d/{i:03}"), PurePosixPath(f"{i:03}"), 1, START + timedelta(seconds=second))
        for i, second in enumerate(seconds)
    ]


def sizes(*seconds: float, rule: ActivityRule = "density", sensitivity: float = 1) -> list[int]:
    return [len(activity) for activity in group(files(*seconds), rule, sensitivity)]


@pytest.mark.parametrize("rule", RULES)
def test_no_files_make_no_activity(rule: ActivityRule) -> None:
    assert sizes(rule=rule) == []


@pytest.mark.parametrize("rule", RULES)
def test_one_file_is_one_activity(rule: ActivityRule) -> None:
    assert sizes(0, rule=rule) == [1]


@pytest.mark.parametrize("rule", RULES)
def test_files_of_one_moment_stay_together(rule: ActivityRule) -> None:
    assert sizes(0, 0, 0, 0, rule=rule) == [4]
    assert sizes(*[0] * 9, 20, 40, *[3600] * 9, 3630, 3660, rule=rule) == [11, 11]


@pytest.mark.parametrize("rule", RULES)
def test_a_long_pause_starts_a_new_activity(rule: ActivityRule) -> None:
    assert sizes(0, 30, 60, 3600, 3630, rule=rule) == [3, 2]


@pytest.mark.parametrize("rule", RULES)
def test_each_of_three_samples_is_an_activity(rule: ActivityRule) -> None:
    assert sizes(*THREE_SAMPLES, rule=rule) == [4, 16, 5]


@pytest.mark.parametrize("rule", RULES)
def test_a_session_that_is_not_to_be_split_is_one_activity(rule: ActivityRule) -> None:
    assert sizes(*THREE_SAMPLES, rule=rule, sensitivity=0) == [25]


@pytest.mark.parametrize("rule", RULES)
def test_a_larger_sensitivity_makes_more_activities(rule: ActivityRule) -> None:
    seconds = [0, 40, 80, 300, 340, 380, 420, 3000, 3050, 3100, 3400, 3450]
    numbers = [len(sizes(*seconds, rule=rule, sensitivity=sensitivity)) for sensitivity in (0, 0.2, 1, 4, 40)]
    assert numbers == sorted(numbers)
    assert numbers[0] == 1
    assert len(set(numbers)) >= 3


@pytest.mark.parametrize("rule", RULES)
def test_a_burst_is_not_taken_to_pieces(rule: ActivityRule) -> None:
    random = Random(1)
    burst = [1800 + random.random() for _ in range(2000)]
    assert sizes(*burst, rule=rule) == [2000]
    assert sizes(0, 20, 50, *burst, 1830, 7200, 7230, 7260, rule=rule) == [3, 2001, 3]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("every", [1, 10, 600])
def test_a_regular_series_is_one_activity(rule: ActivityRule, every: int) -> None:
    random = Random(2)
    assert sizes(*range(0, 300 * every, every), rule=rule) == [300]
    assert sizes(*(number * every + random.randint(0, every // 5) for number in range(300)), rule=rule) == [300]


@pytest.mark.parametrize("rule", RULES)
def test_a_clock_that_jumps_back_only_changes_the_order(rule: ActivityRule) -> None:
    jumped = [0, 30, 60, 5000, 5030, 5060, 5090, 5000 - 3600, 5030 - 3600]
    assert sizes(*jumped, rule=rule) == sizes(*sorted(jumped), rule=rule)
    assert sum(sizes(*jumped, rule=rule)) == 9


@pytest.mark.parametrize("rule", RULES)
def test_times_before_1970_are_times_like_others(rule: ActivityRule) -> None:
    long_ago = -60 * 365 * 24 * 3600
    assert sizes(*(long_ago + second for second in THREE_SAMPLES), rule=rule) == [4, 16, 5]


def test_fractions_of_a_second_make_no_difference() -> None:
    assert sizes(*(second + 0.999999 for second in THREE_SAMPLES)) == [4, 16, 5]


@pytest.mark.parametrize("rule", RULES)
@given(seconds=st.lists(st.integers(0, 10**6), max_size=40), random=st.randoms())
def test_every_file_is_in_one_activity_and_the_order_of_listing_does_not_matter(
    rule: ActivityRule, seconds: list[int], random: Random
) -> None:
    listed = files(*seconds)
    shuffled = list(listed)
    random.shuffle(shuffled)

    activities = group(shuffled, rule)

    assert activities == group(listed, rule)
    flat = [file for activity in activities for file in activity]
    assert flat == sorted(listed, key=lambda file: (file.mtime, file.path))
    assert all(activities)


# --- the gap rule


def test_by_gaps_five_minutes_are_no_pause_and_a_little_more_is_one() -> None:
    assert sizes(0, 1, 2, 302, rule="gap") == [4]
    assert sizes(0, 1, 2, 303, rule="gap") == [3, 1]


def test_by_gaps_slow_work_is_measured_by_its_own_pace() -> None:
    assert sizes(0, 900, 1800, 2700, 2700 + 9000, rule="gap") == [5]
    assert sizes(0, 900, 1800, 2700, 2700 + 9001, rule="gap") == [4, 1]


def test_by_gaps_the_sensitivity_shortens_the_pause() -> None:
    assert sizes(0, 1, 2, 152, rule="gap", sensitivity=2) == [4]
    assert sizes(0, 1, 2, 153, rule="gap", sensitivity=2) == [3, 1]


# --- the density rule and NexusLIMS's


@pytest.fixture(scope="module")
def boundaries() -> Callable[[Sequence[float], float], list[float]]:
    """NexusLIMS's boundaries, by a prototype that gives the same ones."""
    pytest.importorskip("numpy")
    if not PROTOTYPE.exists():
        pytest.skip("the prototype of the density rule is not beside the repository")
    spec = importlib.util.spec_from_file_location("cluster_mtimes", PROTOTYPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def of(seconds: Sequence[float], sensitivity: float) -> list[float]:
        return [float(boundary) for boundary in module.cluster(seconds, sensitivity)]

    return of


@pytest.fixture(scope="module")
def instruments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = SHARED / "data" / "test_record_files.tar.gz"
    if not archive.exists():
        pytest.skip("the shared data are not beside the repository")
    folder = tmp_path_factory.mktemp("instruments")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def divided(listed: Sequence[DataFile], boundaries: Sequence[float]) -> list[list[Path]]:
    """The files between the boundaries."""
    ordered = sorted(listed, key=lambda file: (file.mtime, file.path))
    parts = itertools.groupby(ordered, key=lambda file: bisect_left(boundaries, file.mtime.timestamp()))
    return [[file.path for file in part] for _, part in parts]


@pytest.mark.parametrize(
    ("folder", "sensitivity"),
    [*itertools.product(INSTRUMENTS, [0, 0.5, 1]), ("Titan_TEM", 2), ("Titan_TEM", 5)],
)
def test_the_activities_of_the_real_sessions_are_those_of_nexuslims(
    folder: str, sensitivity: float, instruments: Path, boundaries: Callable[[Sequence[float], float], list[float]]
) -> None:
    every = [path for path in (instruments / folder).rglob("*") if path.is_file()]
    everything = [
        DataFile(path, PurePosixPath(path.name), 1, datetime.fromtimestamp(path.stat().st_mtime, UTC)) for path in every
    ]
    for listed in (everything, list_files(Path(folder), data_root=instruments)):
        expected = boundaries([file.mtime.timestamp() for file in listed], sensitivity)
        activities = [[file.path for file in activity] for activity in group(listed, sensitivity=sensitivity)]
        assert activities == divided(listed, expected)


def test_the_real_sessions_are_split_where_work_paused(instruments: Path) -> None:
    numbers = {
        folder: [len(activity) for activity in group(list_files(Path(folder), data_root=instruments))]
        for folder in INSTRUMENTS
    }
    assert numbers == {
        "Titan_TEM": [10, 7],
        "JEOL_TEM": [8],
        "Nexus_Test_Instrument": [4],
        "Tofwerk_pFIB_TOFSIMS": [2],
    }
