"""Compares a service's clock with ours, by the `Date` of its answers; used by the destinations' `checks()`.

A clock that is wrong shows as something else: signed calls that count as expired, certificates that are not valid yet,
look-ups by time that miss what was just made.
"""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from nexus_tasks.exporters.base import ConfigurationError
from nexus_tasks.exporters.http_failures import Answer

_HALF_A_SECOND = timedelta(seconds=0.5)  # a `Date` leaves the fraction out: on average it is this much behind


def clock_skew(answer: Answer, now: datetime | None = None) -> float | None:
    """The seconds that the service's clock is ahead of ours, to about half a second; None without a `Date`.

    Ask directly after the call: `now`, our time at the answer, is the present where it is not given.
    """
    try:
        told = parsedate_to_datetime(answer.headers.get("date", ""))
    except ValueError:
        return None
    if told.tzinfo is None:  # "-0000", which leaves the zone open; a `Date` is always in UTC
        told = told.replace(tzinfo=UTC)
    age = answer.headers.get("age", "").strip()  # seconds that a cache has kept the answer
    if re.fullmatch(r"\d{1,9}", age):
        told += timedelta(seconds=int(age))
    return (told + _HALF_A_SECOND - (now or datetime.now(UTC))).total_seconds()


def describe_clock(service: str, answer: Answer, most: float) -> str:
    """How far the clock of `service` and ours are apart, in a few words for a check.

    Raises `ConfigurationError`, which says what to mend, when it is more than `most` seconds.
    """
    skew = clock_skew(answer)
    if skew is None:
        return "not told by its answers"
    if abs(skew) > most:
        raise ConfigurationError(
            f"The clock of {service} is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} ours: set the clock "
            "of this machine, or have that of the service set, by a time server (NTP)."
        )
    return f"{abs(skew):.1f} s apart"
