"""Dates mean what the program that wrote them meant."""

from datetime import UTC, datetime

import pytest

from nexus_tasks.builder.readers.dates import local_moment

MAY = datetime(2024, 5, 6, 16, tzinfo=UTC)
JUNE = datetime(2024, 6, 5, 8, tzinfo=UTC)
YEARS_LATER = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("date", "near", "day"),
    [
        ("5/6/2024", MAY, "2024-05-06"),
        ("5/6/2024", JUNE, "2024-06-05"),
        ("5/6/2024", YEARS_LATER, "2024-05-06"),
        ("7/24/2019", YEARS_LATER, "2019-07-24"),
        ("24/07/2019", YEARS_LATER, "2019-07-24"),
        ("6.5.2024", YEARS_LATER, "2024-05-06"),
        ("06.05.24", YEARS_LATER, "2024-05-06"),
        ("2024-05-06", JUNE, "2024-05-06"),
        ("2024/5/6", JUNE, "2024-05-06"),
    ],
)
def test_day_and_month_are_told_apart(date: str, near: datetime, day: str) -> None:
    moment = local_moment(date, "10:00:00", near)

    assert moment is not None
    assert moment.date().isoformat() == day
    assert moment.tzinfo is None


@pytest.mark.parametrize(
    ("time", "clock"),
    [
        ("3:00:44 PM", "15:00:44"),
        ("12:05:00 AM", "00:05:00"),
        ("12:49:45 PM", "12:49:45"),
        ("12:49:45", "12:49:45"),
        ("10:14", "10:14:00"),
        ("3:00:44\u202fpm", "15:00:44"),
        ("09:00:01.250", "09:00:01"),
    ],
)
def test_times_of_twelve_and_of_twenty_four_hours(time: str, clock: str) -> None:
    moment = local_moment("2024-05-06", time, MAY)

    assert moment is not None
    assert moment.time().isoformat() == clock


@pytest.mark.parametrize(
    ("date", "time"),
    [("", "10:00"), ("2024-05-06", ""), ("31/31/2024", "10:00"), ("yesterday", "10:00"), ("2024-05-06", "25:00")],
)
def test_what_is_no_date_is_none(date: str, time: str) -> None:
    assert local_moment(date, time, MAY) is None
