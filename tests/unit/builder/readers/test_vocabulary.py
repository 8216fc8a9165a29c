"""One word and one unit for what all vendors mean."""

from typing import Any

import pytest

from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.vocabulary import Meaning, Value, fact, in_order, number, sorted_out, spelled


@pytest.mark.parametrize(
    ("name", "value", "unit", "made"),
    [
        ("Acceleration Voltage", 30000, "V", Fact("Acceleration Voltage", "30", "kV")),
        ("Acceleration Voltage", "29997", "Volts", Fact("Acceleration Voltage", "29.997", "kV")),
        ("Beam Current", 1.6e-9, "A", Fact("Beam Current", "1.6", "nA")),
        ("Emission Current", "135.0", "uA", Fact("Emission Current", "135", "µA")),
        ("Working Distance", "0.005947501", "m", Fact("Working Distance", "5.9475", "mm")),
        ("Dwell Time", "10000", "ns", Fact("Dwell Time", "10", "µs")),
        ("Stage X", 25157.23, "um", Fact("Stage X", "25.1572", "mm")),
        ("Stage Rotation", 2.74789, "rad", Fact("Stage Rotation", "157.442", "°")),
        ("Pixel Size", 0.00129438, "µm", Fact("Pixel Size", "1.29438", "nm")),
        ("Pixel Size", 0.02, "1/nm", Fact("Pixel Size", "0.02", "1/nm")),
        ("Chamber Pressure", 1.0, "Torr", Fact("Chamber Pressure", "133.322", "Pa")),
        ("Field of View", 1, "Microns", Fact("Field of View", "1", "µm")),
        ("Spot Size", 7, None, Fact("Spot Size", "7")),
        ("Spot Size", 3e-9, "m", Fact("Spot Size", "3", "nm")),
        ("Magnification", "20000", "x", Fact("Magnification", "20000")),
        ("Detector", "  E-T\n", None, Fact("Detector", "E-T")),
        ("Software", "3.60", None, Fact("Software", "3.60")),
        ("Sample", "007", None, Fact("Sample", "007")),
        ("Channel Width", 0.005, "keV", Fact("Channel Width", "5", "eV")),
    ],
)
def test_values_are_given_in_the_vocabularys_unit(name: str, value: Any, unit: str | None, made: Fact) -> None:
    assert fact(name, value, unit) == made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Magnification", 0),
        ("Acceleration Voltage", "0.0"),
        ("Detector", ""),
        ("Title", None),
        ("Stage X", float("nan")),
        ("Title", {}),
    ],
)
def test_what_says_nothing_is_no_fact(name: str, value: Any) -> None:
    assert fact(name, value) is None


def test_a_stage_and_a_rotation_may_be_at_zero() -> None:
    assert fact("Stage Tilt", 0.0, "°") == Fact("Stage Tilt", "0", "°")
    assert fact("Scan Rotation", "-0.0", "deg") == Fact("Scan Rotation", "0", "°")


@pytest.mark.parametrize(
    ("given", "unit"),
    [
        ("um", "µm"),
        ("\u03bcm", "µm"),
        ("uSec", "µs"),
        ("Unitless", None),
        ("", None),
        ("deg", "°"),
        ("eV/Channel", "eV/Channel"),
    ],
)
def test_units_have_one_spelling(given: str, unit: str | None) -> None:
    assert spelled(given) == unit


def test_a_value_without_a_word_is_left_to_the_vendors_own() -> None:
    found, others = sorted_out(
        [Value("HV", "15000.0"), Value("Gun", "Schottky"), Value("Version", "3.6")],
        {"HV": Meaning("Acceleration Voltage", "V"), "Version": Meaning("Software", of="Program")},
    )

    assert found == [Fact("Acceleration Voltage", "15", "kV"), Fact("Software", "Program 3.6")]
    assert others == [Value("Gun", "Schottky")]


def test_facts_stand_in_one_order_whoever_found_them_and_the_first_counts() -> None:
    made = in_order(
        [
            Fact("Magnification", "1"),
            None,
            Fact("Odd", "x"),
            Fact("Pixel Size y", "2"),
            Fact("Title", "t"),
            Fact("Title", "u"),
        ]
    )

    assert [(one.name, one.value) for one in made] == [
        ("Title", "t"),
        ("Pixel Size y", "2"),
        ("Magnification", "1"),
        ("Odd", "x"),
    ]


def test_numbers_are_written_as_people_do() -> None:
    assert [number(value) for value in (300.0, 800000.0, 0.7919895648956299, -0.84)] == [
        "300",
        "800000",
        "0.79199",
        "-0.84",
    ]
