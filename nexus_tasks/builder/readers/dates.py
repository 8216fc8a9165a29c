"""Understands dates as acquisition programs write them, in the order and style of the computer's language.

Used where a file gives a date as text; the libraries take every date to be American where that is possible.
"""

import re
from datetime import datetime, timedelta

_YEAR_FIRST = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])\s?(\d{1,2})\2\s?(\d{4}|\d{2})")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*(?:([AaPp])\.?\s?[Mm]\.?)?")

# A file is written within a day of being recorded, whatever the zones are. One that was copied later says nothing.
_CLOSE = timedelta(hours=36)


def local_moment(date: str, time: str, near: datetime) -> datetime | None:
    """The moment that a date and a time mean, without zone; None for a style that is not known here.

    5/6/2024 is the sixth of May, as DigitalMicrograph and FEI programs write it, unless only the fifth of June is close
    to `near`, the time at which the file was written. Dots are only used where the day comes first.
    """
    clock = _clock(time)
    if clock is None:
        return None
    candidates = [
        moment for year, month, day in _readings(date) if (moment := _moment(year, month, day, *clock)) is not None
    ]
    if not candidates:
        return None
    close = [moment for moment in candidates if abs(moment - near.replace(tzinfo=None)) < _CLOSE]
    return (close or candidates)[0]


def _readings(date: str) -> list[tuple[int, int, int]]:
    """Year, month and day in each way that a date can be read, the likeliest first."""
    found = _YEAR_FIRST.fullmatch(date.strip())
    if found:
        return [(int(found[1]), int(found[2]), int(found[3]))]
    found = _YEAR_LAST.fullmatch(date.strip())
    if not found:
        return []
    first, second, year = int(found[1]), int(found[3]), int(found[4])
    if len(found[4]) == 2:
        year += 2000 if year < 70 else 1900
    month_first, day_first = (year, first, second), (year, second, first)
    return [day_first] if found[2] == "." else [month_first, day_first]


def _clock(time: str) -> tuple[int, int, int] | None:
    found = _TIME.fullmatch(" ".join(time.split()))  # Windows puts narrow spaces before AM and PM
    if not found:
        return None
    hour = int(found[1])
    if found[4]:
        hour = hour % 12 + (12 if found[4] in "Pp" else 0)
    return hour, int(found[2]), int(found[3] or 0)


def _moment(year: int, month: int, day: int, hour: int, minute: int, second: int) -> datetime | None:
    try:
        return datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 the file names no zone
    except ValueError:
        return None
