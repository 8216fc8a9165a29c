"""Programs write lengths and times in units of their own; a record shows them in its own, and nothing else."""

from pathlib import Path

import pytest

from tests.requirements import require_module

require_module("rsciio", "nexus-tasks[readers]")

import numpy as np  # noqa: E402 after the requirement

from nexus_tasks.builder.readers.base import Fact  # noqa: E402
from nexus_tasks.builder.readers.rosettasciio import RosettaSciIO  # noqa: E402
from tests.unit.builder.readers.made_files import data_file, write_mrc, write_msa, write_velox  # noqa: E402

PICTURES = np.arange(3 * 8 * 8, dtype=np.int16).reshape(3, 8, 8)


def facts(path: Path) -> tuple[Fact, ...]:
    (dataset,) = RosettaSciIO().read(data_file(path))
    return dataset.facts


def test_velox_gives_its_stage_in_metres_and_angles_in_radians(tmp_path: Path) -> None:
    stage = {"Position": {"x": "-9e-06", "y": "0.000144", "z": "2.9e-05"}, "AlphaTilt": "0.1", "BetaTilt": "0"}
    detectors = {"Detector-0": {"DetectorName": "SuperXG11", "ElevationAngle": "0.38397244"}}
    picture = {"Detector": "SuperXG11", "DetectorIndex": "0", "PixelSize": {"width": "1e-9", "height": "1e-9"}}

    said = {"Stage": stage, "Detectors": detectors, "BinaryResult": {**picture, "PixelUnitX": "m"}}
    found = facts(write_velox(tmp_path / "a.emd", said, 1_700_000_000))

    assert Fact("Stage X", "-0.009", "mm") in found
    assert Fact("Stage Y", "0.144", "mm") in found
    assert Fact("Stage Z", "0.029", "mm") in found
    assert Fact("Stage Alpha", "5.73", "°") in found
    assert Fact("EDS Elevation Angle", "22.0016", "°") in found


@pytest.mark.parametrize(("written", "shown"), [(0.00025, "0.25"), (-250.0, "-0.25")])
def test_the_stage_of_an_mrc_file_is_in_metres_or_in_micrometres_as_its_size_tells(
    written: float, shown: str, tmp_path: Path
) -> None:
    said = [-60.0, 0.5, written, written, written, 0, 0, -1e-6, 0.75, 100, 0, 1e-9, 50000]
    found = facts(write_mrc(tmp_path / "a.mrc", PICTURES, said))

    assert Fact("Stage X", shown, "mm") in found
    assert Fact("Stage Alpha", "-60", "°") in found
    assert Fact("Stage Beta", "0.5", "°") in found
    assert Fact("Exposure Time", "0.75", "s") in found
    assert Fact("Magnification", "50000") in found
    assert not [fact for fact in found if "[" in fact.value]


@pytest.mark.parametrize(
    ("keyword", "value"), [("INTEGTIME -ms", "100"), ("INTEGTIME", "100"), ("INTEGTIME -s", "0.1")]
)
def test_the_integration_time_of_an_msa_file_is_in_milliseconds_unless_it_says_otherwise(
    keyword: str, value: str, tmp_path: Path
) -> None:
    assert Fact("EELS Exposure", "0.1", "s") in facts(write_msa(tmp_path / "a.msa", more={keyword: value}))


def test_a_unit_that_an_msa_file_names_is_believed_where_it_makes_sense(tmp_path: Path) -> None:
    more = {"PROBECUR -pA": "250", "CONVANGLE-mR": "1.5", "XTILTSTGE-dg": "10"}
    found = facts(write_msa(tmp_path / "a.msa", more=more))

    assert Fact("Beam Current", "0.25", "nA") in found
    assert Fact("Convergence Angle", "1.5", "mrad") in found
    assert Fact("Stage Alpha", "10", "°") in found
