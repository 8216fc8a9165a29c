import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_tasks.db.storable import storable_json, storable_text


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Größe 5 µm ✓ 🔬", "Größe 5 µm ✓ 🔬"),
        ("nul \x00 byte", "nul \ufffd byte"),
        ("half \ud83d a pair", "half \ufffd a pair"),
        ("two\nlines", "two\nlines"),
        ("", ""),
    ],
)
def test_text_is_kept_but_for_what_postgresql_cannot_hold(said: str, kept: str) -> None:
    assert storable_text(said, 100) == kept


def test_text_is_cut_to_its_length() -> None:
    assert storable_text("abcdef", 3) == "abc"


@pytest.mark.parametrize("value", [None, True, False, 0, -1, 1.5, "text", [1, [2]], {"a": {"b": []}}])
def test_what_is_json_stays_as_it_is(value: Any) -> None:
    assert storable_json(value) == value
    assert type(storable_json(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (datetime(2025, 1, 27, tzinfo=UTC), "2025-01-27 00:00:00+00:00"),
        (Path("a/b"), "a/b"),
        ((1, Path("x")), [1, "x"]),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ({"nul \x00": "nul \x00"}, {"nul \ufffd": "nul \ufffd"}),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (b"bytes", "b'bytes'"),
        ({7}, [7]),
    ],
)
def test_what_is_no_json_is_kept_as_its_text(value: Any, kept: Any) -> None:
    assert storable_json(value) == kept


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner) | st.tuples(inner),
    max_leaves=10,
)


@given(ANYTHING)
def test_whatever_a_plugin_says_becomes_strict_json_that_can_be_stored(value: Any) -> None:
    written = json.dumps(storable_json(value), allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in written
    written.encode()
