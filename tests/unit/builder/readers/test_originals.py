"""What programs write beyond what RosettaSciIO maps."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.originals import Original, read_original
from tests.unit.builder.readers.made_files import data_file, write_spc


@pytest.fixture
def file(tmp_path: Path) -> DataFile:
    path = tmp_path / "a.xyz"
    path.write_bytes(b"data")
    return data_file(path)


def read(plugin: str, original: dict[str, Any], file: DataFile, mapping: dict[str, Any] | None = None) -> Original:
    return read_original(plugin, {"original_metadata": original, "mapping": mapping or {}}, file)


def test_digitalmicrograph(file: DataFile) -> None:
    tags = {
        "Microscope Info": {
            "Voltage": 200000.0,
            "Emission Current (µA)": 8.5,
            "Imaging Mode": "MAG",
            "Lens": {"CL1": 38912},
            "Items": {"TagGroup0": {"Label": "Specimen"}},
        },
        "DataBar": {"Signal Name": "ADF", "Device Name": "DigiScan", "Exposure Time (s)": 0.5},
        "GMS Version": {"Created": "3.60"},
        "Calibration": {"Secret": 1},
    }
    where = "ImageList.TagGroup0.ImageTags."

    said = read(
        "DigitalMicrograph",
        {"ImageList": {"TagGroup0": {"ImageTags": tags}}},
        file,
        {where + "Microscope Info.Voltage": ("Acquisition_instrument.TEM.beam_energy", None)},
    )

    assert said.facts == (
        Fact("Software", "DigitalMicrograph 3.60"),
        Fact("Detector", "ADF"),
        Fact("Detector", "DigiScan"),  # the first of a name counts
        Fact("Exposure Time", "0.5", "s"),
        Fact("Emission Current", "8.5", "µA"),
    )
    assert said.own == (Fact("DigitalMicrograph: Microscope Info.Imaging Mode", "MAG"),)


def test_an_fei_tifs_date_is_the_one_that_means_the_same_in_all_languages(file: DataFile) -> None:
    fei = {
        "User": {"Date": "05/06/2024", "Time": "10:00:00 AM"},
        "PrivateFei": {"TimeOfCreation": "05.06.2024 10:00:00"},
        "EBeam": {"HFW": 0.000452548, "EmissionCurrent": 0.000156},
        "Detectors": {"Name": "LFD", "Mode": "SE"},
    }
    mapping = {
        "fei_metadata.User.Date": ("General.date", None),
        "fei_metadata.User.Time": ("General.time", None),
    }

    said = read("TIFF", {"fei_metadata": fei}, file, mapping)

    assert said.acquired == datetime(2024, 6, 5, 10)  # noqa: DTZ001 the file names no zone
    assert Fact("Field of View", "452.548", "µm") in said.facts
    assert Fact("Emission Current", "156", "µA") in said.facts
    assert Fact("Detector", "LFD") in said.facts
    assert Fact("FEI: Detectors.Mode", "SE") in said.own

    del fei["PrivateFei"]
    older = read("TIFF", {"fei_metadata": fei}, file, mapping)
    assert older.acquired == datetime(2024, 5, 6, 10)  # noqa: DTZ001 the file names no zone


def test_zeiss_names_and_units_come_with_the_values(file: DataFile) -> None:
    sem = {
        "ap_width": ("Width", 114.3, "µm"),
        "dp_detector_channel": ("Signal A", "SE2"),
        "ap_beam_offset_x": ("Beam Offset X", 0.1, "%"),
        "": (0, 0, 0),
    }

    said = read("TIFF", {"CZ_SEM": sem}, file)

    assert said.facts == (Fact("Detector", "SE2"), Fact("Field of View", "114.3", "µm"))
    assert said.own == (Fact("Zeiss: Beam Offset X", "0.1", "%"),)


def test_velox(file: DataFile) -> None:
    tree = {
        "Core": {"guid": "0"},
        "Instrument": {"InstrumentClass": "Titan"},
        "Optics": {"SpotIndex": "6", "FullScanFieldOfView": {"x": "1.0E-6", "y": "1.0E-6"}, "ProbeMode": "2"},
        "Scan": {"DwellTime": "2e-06"},
        "BinaryResult": {"Detector": "HAADF"},
    }

    said = read("EMD", tree, file)

    assert set(said.facts) == {
        Fact("Microscope", "Titan"),
        Fact("Detector", "HAADF"),
        Fact("Spot Size", "6"),
        Fact("Field of View", "1", "µm"),
        Fact("Dwell Time", "2", "µs"),
    }
    assert Fact("Velox: Optics.ProbeMode", "2") in said.own


def test_of_any_other_program_the_values_stay_under_its_name(file: DataFile) -> None:
    said = read("Bruker", {"Hardware": {"Gain": 2, "List": [1, 2], "Raw": b"x"}, "Version": "1.9"}, file)

    assert said.own == (Fact("Bruker: Hardware.Gain", "2"), Fact("Bruker: Version", "1.9"))
    assert (said.facts, said.acquired) == ((), None)


def test_an_edax_spectrum_says_when_it_was_collected(tmp_path: Path) -> None:
    pytest.importorskip("numpy", reason="the readers are not installed")
    path = write_spc(tmp_path / "a.spc")

    assert read("EDAX", {}, data_file(path)).acquired == datetime(2024, 5, 6, 10)  # noqa: DTZ001 none is named

    path.write_bytes(bytes(30))
    assert read("EDAX", {}, data_file(path)).acquired is None
