"""From metadata to facts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.layout import Layout
from nexus_tasks.builder.readers.mapped import acquired, acquired_as_written, apply_mapping, facts, is_diffraction


def image_layout(unit: str = "nm") -> Layout:
    return Layout.from_rosettasciio([{"name": name, "units": unit, "scale": 0.5} for name in "yx"], (3, 4), "")


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


def test_voltage_and_magnification_become_facts_with_units() -> None:
    found = facts(tem(beam_energy=300.0, magnification=620000.0, dwell_time=4e-6), {})

    assert Fact("Acceleration Voltage", "300", "kV") in found
    assert Fact("Magnification", "620000") in found
    assert Fact("Dwell Time", "4", "µs") in found


def test_zero_means_that_the_program_did_not_know() -> None:
    assert facts(tem(beam_current=0.0, magnification=0), {}) == []


def test_a_stage_at_zero_is_at_zero() -> None:
    assert Fact("Stage X", "0", "mm") in facts(tem(Stage={"x": 0.0}), {})


def test_the_stage_of_an_fei_tif_is_converted_from_metres_and_radians() -> None:
    found = facts({"Acquisition_instrument": {"SEM": {"Stage": {"x": 0.01, "tilt": 0.2}}}}, {"fei_metadata": {}})

    assert Fact("Stage X", "10", "mm") in found
    assert Fact("Stage Tilt", "11.4592", "°") in found


def test_the_stage_of_an_sem_tilts_about_one_axis() -> None:
    assert facts({"Acquisition_instrument": {"SEM": {"Stage": {"tilt_alpha": -1.0}}}}, {}) == [
        Fact("Stage Tilt", "-1", "°")
    ]


def test_a_date_that_the_mapping_reads_the_american_way_is_read_as_it_was_written() -> None:
    signal = {
        "metadata": {},
        "original_metadata": {"Bar": {"Date": "6.5.2024", "Time": "10:00:00"}},
        "mapping": {"Bar.Date": ("General.date", None), "Bar.Time": ("General.time", None), "Bar.Odd": None},
    }

    assert acquired_as_written(signal, datetime(2024, 5, 6, tzinfo=UTC)) == datetime(2024, 5, 6, 10)  # noqa: DTZ001 the file names none


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
