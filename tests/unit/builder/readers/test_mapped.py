"""From metadata to facts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.layout import Layout
from nexus_tasks.builder.readers.mapped import acquired, apply_mapping, facts, is_diffraction, number


def image_layout(unit: str = "nm", scale: float = 0.5) -> Layout:
    return Layout.from_rosettasciio([{"name": name, "units": unit, "scale": scale} for name in "yx"], (3, 4), "")


def tem(**values: Any) -> dict[str, Any]:
    return {"Acquisition_instrument": {"TEM": values}}


def test_the_mapping_brings_values_to_their_place_and_converts_them() -> None:
    signal = {
        "metadata": {"General": {"title": "t"}},
        "original_metadata": {"Tags": {"Microscope Info": {"Voltage": 300000.0, "Odd": "?"}}},
        "mapping": {
            "Tags.Microscope_Info.Voltage": ("Acquisition_instrument.TEM.beam_energy", lambda volts: volts / 1e3),
            "Tags.Microscope Info.Odd": ("Acquisition_instrument.TEM.magnification", float),
            "Tags.Nothing": ("General.date", None),
        },
    }

    assert apply_mapping(signal) == {
        "General": {"title": "t"},
        "Acquisition_instrument": {"TEM": {"beam_energy": 300.0}},
    }


@pytest.mark.parametrize(
    ("general", "moment"),
    [
        ({"date": "2018-11-13", "time": "12:49:45"}, datetime(2018, 11, 13, 12, 49, 45)),  # noqa: DTZ001 the file names none
        ({"date": "2018-11-13"}, None),
        ({"time": "12:49:45"}, None),
        ({"date": "13.11.2018", "time": "12:49:45"}, None),
        ({}, None),
    ],
)
def test_a_moment_needs_date_and_time(general: dict[str, str], moment: datetime | None) -> None:
    assert acquired({"General": general}) == moment


@pytest.mark.parametrize(("zone", "hours"), [("-05:00", -5), ("Europe/Berlin", 1), ("UTC", 0)])
def test_a_zone_in_the_file_is_used(zone: str, hours: int) -> None:
    moment = acquired({"General": {"date": "2018-11-13", "time": "12:00:00", "time_zone": zone}})

    assert moment is not None
    assert moment.utcoffset() == timedelta(hours=hours)
    assert moment.astimezone(UTC).hour == 12 - hours


def test_a_zone_nobody_knows_is_as_good_as_none() -> None:
    moment = acquired({"General": {"date": "2018-11-13", "time": "12:00:00", "time_zone": "Middle Earth"}})

    assert moment is not None
    assert moment.tzinfo is None


def test_voltage_magnification_and_pixel_size_become_facts_with_units() -> None:
    found = facts(tem(beam_energy=300.0, magnification=620000.0), {}, image_layout(), "int32")

    assert Fact("Acceleration Voltage", "300", "kV") in found
    assert Fact("Magnification", "620000") in found
    assert Fact("Pixel Size", "0.5", "nm") in found
    assert Fact("Data Dimensions", "4 × 3") in found


def test_zero_means_that_the_program_did_not_know() -> None:
    names = [fact.name for fact in facts(tem(beam_current=0.0, magnification=0), {}, image_layout(), "int32")]

    assert "Beam Current" not in names
    assert "Magnification" not in names


def test_a_stage_at_zero_is_at_zero() -> None:
    assert Fact("Stage X", "0", "mm") in facts(tem(Stage={"x": 0.0}), {}, image_layout(), "int32")


def test_the_stage_of_an_fei_tif_is_in_metres_and_radians() -> None:
    found = facts(tem(Stage={"x": 0.01, "tilt": 0.2}), {"fei_metadata": {}}, image_layout(), "uint8")

    assert Fact("Stage X", "0.01", "m") in found
    assert Fact("Stage Tilt", "0.2", "rad") in found


def test_lengths_in_metres_are_made_readable() -> None:
    assert Fact("Pixel Size", "26.9792", "nm") in facts({}, {}, image_layout("m", 2.69792e-08), "uint8")


@pytest.mark.parametrize(
    ("metadata", "unit", "expected"),
    [
        ({}, "nm", False),
        ({}, "1/nm", True),
        (tem(acquisition_mode="TEM", camera_length=200.0), "", True),
        (tem(acquisition_mode="STEM", camera_length=200.0), "nm", False),
        (tem(acquisition_mode="TEM", magnification=1000.0), "nm", False),
    ],
)
def test_diffraction_is_told_by_units_or_by_the_mode(metadata: dict[str, Any], unit: str, expected: bool) -> None:
    assert is_diffraction(metadata, image_layout(unit)) is expected


def test_numbers_are_written_as_people_do() -> None:
    assert [number(value) for value in (300.0, 800000.0, 0.7919895648956299, -0.84)] == [
        "300",
        "800000",
        "0.79199",
        "-0.84",
    ]
