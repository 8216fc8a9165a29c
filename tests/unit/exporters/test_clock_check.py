from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from nexus_tasks.exporters.base import ConfigurationError
from nexus_tasks.exporters.clock_check import clock_skew, describe_clock
from nexus_tasks.exporters.http_failures import Answer, Call, Service

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def answer(date: str | None, **headers: str) -> Answer:
    told = {} if date is None else {"date": date}
    return Answer(Call(Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN"), "GET", "rest/"), 200, told | headers, b"")


def dated(ahead: float) -> Answer:
    return answer(format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True))


@pytest.mark.parametrize(
    ("date", "skew"),
    [
        ("Mon, 02 Mar 2026 09:30:00 GMT", 0.5),  # the second that has begun: half of it is over, on average
        ("Mon, 02 Mar 2026 09:31:40 GMT", 100.5),
        ("Mon, 02 Mar 2026 09:28:20 -0000", -99.5),
        ("Mon, 02 Mar 2026 10:30:00 +0100", 0.5),
        ("yesterday", None),
        (None, None),
    ],
)
def test_the_skew_is_read_from_the_date_of_an_answer(date: str | None, skew: float | None) -> None:
    assert clock_skew(answer(date), NOW) == skew


def test_the_time_that_a_cache_has_kept_an_answer_does_not_count() -> None:
    assert clock_skew(answer("Mon, 02 Mar 2026 09:20:00 GMT", age="600"), NOW) == 0.5
    assert clock_skew(answer("Mon, 02 Mar 2026 09:30:00 GMT", age="?"), NOW) == 0.5


def test_clocks_that_agree_are_described() -> None:
    assert describe_clock("CDCS", dated(0), 60).endswith(" s apart")
    assert describe_clock("CDCS", answer(None), 60) == "not told by its answers"


@pytest.mark.parametrize(("ahead", "side"), [(300, "ahead of"), (-300, "behind")])
def test_clocks_that_are_too_far_apart_say_what_to_mend(ahead: float, side: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"clock of CDCS is (299|300|301) s {side} ours: set the clock.*NTP"):
        describe_clock("CDCS", dated(ahead), 60)
