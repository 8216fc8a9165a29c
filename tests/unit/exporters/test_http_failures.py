from datetime import UTC, datetime

import pytest

from nexus_tasks.exporters.base import ConfigurationError, ExportError, NothingDoneError, PermanentError, TransientError
from nexus_tasks.exporters.http_failures import (
    LONGEST_MESSAGE,
    Answer,
    Call,
    Service,
    parse_retry_after,
    plain_message,
    refusal,
)

CALL = Call(Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN"), "POST", "rest/data/")


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(CALL, status, headers, body)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, ConfigurationError),
        (400, PermanentError),
        (401, ConfigurationError),
        (403, ConfigurationError),
        (404, PermanentError),
        (408, TransientError),
        (413, PermanentError),
        (425, TransientError),
        (429, NothingDoneError),
        (500, TransientError),
        (502, TransientError),
        (503, TransientError),
        (504, TransientError),
        (200, TransientError),
    ],
)
def test_a_status_says_whether_time_can_mend_it(status: int, kind: type[ExportError]) -> None:
    assert type(refusal(answer(status))) is kind


def test_a_refused_token_names_the_setting() -> None:
    failure = refusal(answer(403, b'{"detail": "Invalid token."}'))
    assert str(failure) == (
        "CDCS does not let us in (403 to POST rest/data/): check NX_CDCS_TOKEN. It says: Invalid token."
    )


@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_that_a_service_asks_for_is_kept(status: int) -> None:
    failure = refusal(Answer(CALL, status, {"retry-after": "120"}, b""))
    assert isinstance(failure, TransientError)
    assert failure.retry_after == 120


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("17", 17),
        (" 2.5 ", 2.5),
        ("Fri, 02 Jan 2026 00:01:00 GMT", 60),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("99999999999999999999", None),
    ],
)
def test_retry_after_holds_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=datetime(2026, 1, 2, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message": {"title": ["Too long."], "template": ["Unknown."]}}', "title: Too long.; template: Unknown."),
        (b'{"code": 400, "message": "Bad Request", "description": "No tag."}', "Bad Request No tag."),
        (b"<html><head><title>x</title></head><body><h1>Bad&nbsp;Gateway</h1>nginx</body></html>", "Bad Gateway nginx"),
        (b'["a", "b"]', "a, b"),
        (b"\xff plain", "� plain"),
        (b"", ""),
    ],
)
def test_the_words_of_a_service_are_made_plain(body: bytes, said: str) -> None:
    assert answer(400, body).message == said


def test_a_message_is_short_and_without_secrets() -> None:
    assert len(plain_message("x" * 1000)) == LONGEST_MESSAGE
    assert plain_message("GET /a?sig=1&b=2 by u1d", ("u1d",)) == "GET /a?… by ***"


def test_a_page_in_place_of_json_is_transient() -> None:
    with pytest.raises(TransientError, match="not JSON") as caught:
        answer(200, b"<html>").json()
    assert caught.value.__context__ is None
