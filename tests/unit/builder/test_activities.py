"""How files become activities."""

from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.builder.activities import group
from nexus_tasks.builder.files import DataFile

START = datetime(2024, 5, 1, tzinfo=UTC)


def files(*seconds: float) -> list[DataFile]:
    return [
        DataFile(Path(f"/d/{i:03}"), PurePosixPath(f"{i:03}"), 1, START + timedelta(seconds=second))
        for i, second in enumerate(seconds)
    ]


def sizes(*seconds: float) -> list[int]:
    return [len(activity) for activity in group(files(*seconds))]


def test_no_files_make_no_activity() -> None:
    assert group([]) == []


def test_one_file_is_one_activity() -> None:
    assert sizes(0) == [1]


def test_a_long_pause_starts_a_new_activity() -> None:
    assert sizes(0, 30, 60, 3600, 3630) == [3, 2]


def test_five_minutes_are_no_pause_and_a_little_more_is_one() -> None:
    assert sizes(0, 1, 2, 302) == [4]
    assert sizes(0, 1, 2, 303) == [3, 1]


def test_slow_work_is_measured_by_its_own_pace() -> None:
    assert sizes(0, 900, 1800, 2700, 2700 + 9000) == [5]
    assert sizes(0, 900, 1800, 2700, 2700 + 9001) == [4, 1]


def test_files_of_one_moment_stay_together() -> None:
    assert sizes(0, 0, 0, 0) == [4]


@given(st.lists(st.integers(0, 10**6), max_size=40), st.randoms())
def test_every_file_is_in_one_activity_and_the_order_of_listing_does_not_matter(
    seconds: list[int], random: Random
) -> None:
    listed = files(*seconds)
    shuffled = list(listed)
    random.shuffle(shuffled)

    activities = group(shuffled)

    assert activities == group(listed)
    flat = [file for activity in activities for file in activity]
    assert flat == sorted(listed, key=lambda file: (file.mtime, file.path))
    assert all(activities)
