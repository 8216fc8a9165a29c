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
    assert acquired({"General": general}, "DigitalMicrograph") == moment


@pytest.mark.parametrize(("zone", "hours"), [("-05:00", -5), ("Europe/Berlin", 1), ("UTC", 0)])
def test_a_zone_in_the_file_is_used(zone: str, hours: int) -> None:
    moment = acquired({"General": {"date": "2018-11-13", "time": "12:00:00", "time_zone": zone}}, "EMD")

    assert moment is not None
    assert moment.utcoffset() == timedelta(hours=hours)
    assert moment.astimezone(UTC).hour == 12 - hours


def test_a_zone_nobody_knows_is_as_good_as_none() -> None:
    moment = acquired({"General": {"date": "2018-11-13", "time": "12:00:00", "time_zone": "Middle Earth"}}, "EMD")

    assert moment is not None
    assert moment.tzinfo is None


def test_voltage_and_magnification_become_facts_with_units() -> None:
    found = facts(tem(beam_energy=300.0, magnification=620000.0, dwell_time=4e-6), {}, "TIFF")

    assert Fact("Acceleration Voltage", "300", "kV") in found
    assert Fact("Magnification", "620000") in found
    assert Fact("Dwell Time", "4", "µs") in found


def test_zero_means_that_the_program_did_not_know() -> None:
    assert facts(tem(beam_current=0.0, magnification=0), {}, "TIFF") == []


def test_a_stage_at_zero_is_at_zero() -> None:
    assert Fact("Stage X", "0", "mm") in facts(tem(Stage={"x": 0.0}), {}, "TIFF")


def test_the_stage_of_an_fei_tif_is_converted_from_metres_and_radians() -> None:
    found = facts(
        {"Acquisition_instrument": {"SEM": {"Stage": {"x": 0.01, "tilt": 0.2}}}}, {"fei_metadata": {}}, "TIFF"
    )

    assert Fact("Stage X", "10", "mm") in found
    assert Fact("Stage Tilt", "11.4592", "°") in found


def test_the_stage_of_an_sem_tilts_about_one_axis() -> None:
    assert facts({"Acquisition_instrument": {"SEM": {"Stage": {"tilt_alpha": -1.0}}}}, {}, "TIFF") == [
        Fact("Stage Tilt", "-1", "°")
    ]


def test_the_stage_of_bruker_is_in_micrometres() -> None:
    found = facts({"Acquisition_instrument": {"SEM": {"Stage": {"x": 66940.81, "rotation": 326.1}}}}, {}, "Bruker")

    assert found == [Fact("Stage X", "66.9408", "mm"), Fact("Stage Rotation", "326.1", "°")]


@pytest.mark.parametrize("plugin", ["Blockfile", "PantaRhei"])
def test_a_camera_length_in_metres_is_shown_in_millimetres(plugin: str) -> None:
    assert facts(tem(camera_length=0.02), {}, plugin) == [Fact("Camera Length", "20", "mm")]


def test_what_is_in_a_unit_that_nobody_knows_is_left_out() -> None:
    assert facts(tem(Stage={"x": 100.0, "tilt_alpha": 0.5}, beam_current=2.0, magnification=5000), {}, "TVIPS") == [
        Fact("Magnification", "5000")
    ]


def test_a_unit_beside_a_value_is_believed_where_it_makes_sense() -> None:
    found = facts(
        tem(beam_energy=5000, beam_energy_units="V", convergence_angle=2, convergence_angle_units="?"), {}, ""
    )

    assert found == [Fact("Acceleration Voltage", "5", "kV"), Fact("Convergence Angle", "2", "mrad")]


def test_a_zone_that_no_file_names_is_not_made_up() -> None:
    general = {"date": "2019-08-07", "time": "09:37:31", "time_zone": "UTC"}

    assert acquired({"General": general}, "Phenom") == datetime(2019, 8, 7, 9, 37, 31)  # noqa: DTZ001 the file names none


def test_times_that_are_in_utc_without_saying_so_are_known() -> None:
    general = {"date": "2024-05-06", "time": "10:00:00"}

    assert acquired({"General": general}, "Delmic") == datetime(2024, 5, 6, 10, tzinfo=UTC)


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
