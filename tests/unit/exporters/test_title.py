import string
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.exporters.base import ExportContext
from nexus_tasks.exporters.title import (
    attachment_name,
    nexuslims_title,
    record_title,
    short_session_id,
    usage_event_of,
)

SAFE = set(string.ascii_letters + string.digits + "._-")


def test_a_title_holds_date_instrument_and_session(context: ExportContext) -> None:
    assert record_title(context) == "2025-01-27_FEI-Titan-TEM-012345_2025-01-27_10-30-15_abc123"
    assert attachment_name(context) == record_title(context) + ".xml"


@pytest.mark.parametrize(
    ("identifier", "short"),
    [
        ("abc-123", "abc-123"),
        ("https://nemo.example.org/api/usage_events/?id=303", "usage_events-303"),
        ("https://nemo.example.org/api/sessions/4711/", "4711"),
        ("https://nemo.example.org/api/sessions/4711", "4711"),
    ],
)
def test_of_an_address_the_last_part_is_taken(identifier: str, short: str) -> None:
    assert short_session_id(identifier) == short


@pytest.mark.parametrize(
    ("identifier", "usage_event", "short"),
    [
        ("https://nemo.example.org/api/usage_events/?id=303", "303", "303"),
        ("6c7d3f14-8b0a-4f3a-9e7c-1f2f6a2f0c11", None, "6c7d3f14"),
        ("session?id=303", None, "session?id=303"),
    ],
)
def test_nexuslims_has_titles_of_its_own(identifier: str, usage_event: str | None, short: str) -> None:
    assert usage_event_of(identifier) == usage_event
    assert nexuslims_title(date(2026, 3, 2), "Titan-012345", identifier) == f"2026-03-02_Titan-012345_{short}"


def test_shortened_and_changed_identifiers_stay_apart() -> None:
    assert short_session_id("a" * 200 + "1") != short_session_id("a" * 200 + "2")
    assert short_session_id("a b") != short_session_id("a/b") != short_session_id("a-b")
    assert short_session_id("ü") != short_session_id("ö")


def test_a_title_is_short_and_safe_whatever_the_names_are(context: ExportContext) -> None:
    @given(st.text(min_size=1), st.text(min_size=1))
    def check(session: str, instrument: str) -> None:
        title = record_title(replace(context, session_identifier=session, instrument_pid=instrument))
        assert set(title) <= SAFE
        assert len(title) <= 200

    check()
    wide = replace(context, session_identifier="s" * 500, instrument_pid="i" * 500)
    assert len(attachment_name(wide)) <= 200


def test_an_address_without_a_path_is_still_named() -> None:
    assert short_session_id("https://nemo.example.org").startswith("https-nemo.example.org-")
