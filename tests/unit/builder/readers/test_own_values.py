"""A vendor's own values stay, but do not bury the rest."""

from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.own_values import LONGEST_VALUE, MOST_VALUES, own_values
from nexus_tasks.builder.readers.vocabulary import Value


def test_they_are_named_after_the_vendor_and_keep_value_and_unit() -> None:
    assert own_values("Tescan", [Value("Gun", "Schottky"), Value("Lens  1", "0.50", "um"), Value("Odd", 3.0)]) == (
        Fact("Tescan: Gun", "Schottky"),
        Fact("Tescan: Lens 1", "0.50", "µm"),
        Fact("Tescan: Odd", "3"),
    )


def test_what_is_empty_long_or_there_already_is_left_out() -> None:
    values = [
        Value("a", ""),
        Value("b", "x" * (LONGEST_VALUE + 1)),
        Value("c", b"raw"),
        Value("d", "1"),
        Value("d", "2"),
    ]

    assert own_values("V", values) == (Fact("V: d", "1"),)


def test_there_are_so_many_and_no_more() -> None:
    made = own_values("V", (Value(str(place), place) for place in range(10**9)))

    assert len(made) == MOST_VALUES
