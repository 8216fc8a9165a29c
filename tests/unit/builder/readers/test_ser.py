"""Series of TIA: headers, descriptions, and values that are mapped where they lie."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.requirements import require_module

require_module("rsciio", "nexus-tasks[readers]")

import numpy as np  # noqa: E402 after the requirement

from nexus_tasks.builder.readers import ser  # noqa: E402
from nexus_tasks.builder.readers.base import DamagedFileError, Dataset, Fact  # noqa: E402
from nexus_tasks.builder.readers.tia_description import describe, object_infos  # noqa: E402
from nexus_tasks.builder.readers.xml_text import parse_xml  # noqa: E402
from tests.unit.builder.readers.made_files import data_file, description, write_emi, write_ser  # noqa: E402

VALUES = np.arange(3 * 4 * 8 * 6, dtype=np.uint16).reshape(3, 4, 8, 6)
SCAN = [(3, 2e-9, "meters"), (4, 1e-9, "meters")]
NANOMETRE = [(0.0, 1e-9), (0.0, 1e-9)]


def read(path: Path) -> list[Dataset]:
    reader, file = ser.Ser(), data_file(path)
    assert reader.fits(file)
    return list(reader.read(file))


def facts(dataset: Dataset) -> dict[str, str]:
    return {fact.name: f"{fact.value} {fact.unit or ''}".strip() for fact in dataset.facts}


def mapped(path: Path) -> np.ndarray:
    headers = ser._read_headers(path)
    return np.asarray(ser._mapped(path, headers, ser._layout(headers, ser._description(path))))


def test_a_picture_with_its_description(tmp_path: Path) -> None:
    write_ser(tmp_path / "a_1.ser", VALUES[0, 0], calibration=NANOMETRE)
    write_emi(tmp_path / "a.emi", description())

    (dataset,) = read(tmp_path / "a_1.ser")

    assert (dataset.type, dataset.reader, dataset.problem) == ("Image", "TIA", None)
    assert dataset.acquired == datetime(2024, 5, 6, 10)  # noqa: DTZ001 the file names no zone
    said = facts(dataset)
    assert said["Data Dimensions"] == "6 × 8"
    assert said["Pixel Size"] == "1 nm"
    assert said["Acceleration Voltage"] == "200 kV"
    assert said["Magnification"] == "50000"
    assert said["Camera Length"] == "420 mm"
    assert said["Stage X"] == "0.1005 mm"
    assert said["Stage Alpha"] == "-0.84 °"
    assert said["Microscope"] == "Tecnai 200 kV"
    assert said["Operator"] == "ANN"
    assert said["TIA: Gun lens"] == "6"


@pytest.mark.parametrize(
    ("scan", "values", "kind", "size"),
    [
        ([], VALUES[0, 0, :, 0], "Spectrum", "8"),
        (SCAN[1:], VALUES[0, :, :, 0], "Spectrum", "4 × 8"),
        (SCAN, VALUES[:, :, :, 0], "SpectrumImage", "4 × 3 × 8"),
        (SCAN[1:], VALUES[0], "Image", "4 × 6 × 8"),
        (SCAN, VALUES, "Image", "4 × 3 × 6 × 8"),
    ],
)
def test_the_type_follows_from_what_was_recorded_and_over_what(
    tmp_path: Path, scan: list[tuple[int, float, str]], values: np.ndarray, kind: str, size: str
) -> None:
    path = write_ser(tmp_path / "a_1.ser", values, scan=scan)

    (dataset,) = read(path)

    assert (dataset.type, facts(dataset)["Data Dimensions"]) == (kind, size)
    assert dataset.acquired is None
    expected = values[..., ::-1, :] if values.ndim - len(scan) == 2 else values
    np.testing.assert_array_equal(mapped(path), expected)


@pytest.mark.parametrize("wide", [True, False])
def test_the_values_are_those_that_rosettasciio_reads(tmp_path: Path, wide: bool) -> None:
    path = write_ser(tmp_path / "a_1.ser", VALUES, scan=SCAN, calibration=NANOMETRE, wide=wide)
    program = (
        "import json, sys; from rsciio.tia import file_reader; "
        "print(json.dumps(file_reader(sys.argv[1])[0]['data'].tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)

    assert mapped(path).tolist() == json.loads(done.stdout)


@pytest.mark.parametrize(
    ("mode", "more", "kind"),
    [
        ("TEM uP SA Zoom Diffraction", "", "Diffraction"),
        ("STEM nP SA Zoom Diffraction", "", "Image"),
        ("STEM nP SA Zoom Diffraction", "<CameraNamePath>BM-Ceta</CameraNamePath>", "Diffraction"),
        ("TEM uP SA Zoom Image", "<CameraNamePath>BM-Ceta</CameraNamePath>", "Image"),
    ],
)
def test_diffraction_is_told_by_mode_and_camera(tmp_path: Path, mode: str, more: str, kind: str) -> None:
    write_ser(tmp_path / "a_1.ser", VALUES[0, 0], calibration=[(0.0, 1e8), (0.0, 1e8)])
    write_emi(tmp_path / "a.emi", description(mode, more=more))

    (dataset,) = read(tmp_path / "a_1.ser")

    assert dataset.type == kind
    assert (facts(dataset)["Pixel Size"] == "0.1 1/nm") is (kind == "Diffraction")


def test_each_series_has_its_own_description(tmp_path: Path) -> None:
    write_ser(tmp_path / "a_1.ser", VALUES[0, 0])
    write_ser(tmp_path / "a_2.ser", VALUES[0, 0, :, 0])
    write_emi(tmp_path / "a.emi", description(), description(date="Mon May 06 11:30:00 2024"))

    (second,) = read(tmp_path / "a_2.ser")

    assert second.acquired == datetime(2024, 5, 6, 11, 30)  # noqa: DTZ001 the file names no zone
    assert [dataset.name for dataset in read(tmp_path / "a.emi")] == ["a_1.ser", "a_2.ser"]


def test_without_a_description_the_first_tag_says_when(tmp_path: Path) -> None:
    path = write_ser(tmp_path / "a_1.ser", VALUES[0, 0], seconds=1714989600)

    assert read(path)[0].acquired == datetime(2024, 5, 6, 10, tzinfo=UTC)


@pytest.mark.parametrize(("valid", "size"), [(1, "8"), (3, "3 × 8"), (9, "4 × 2 × 8"), (12, "4 × 3 × 8")])
def test_of_a_scan_that_was_stopped_the_complete_lines_are_there(tmp_path: Path, valid: int, size: str) -> None:
    path = write_ser(tmp_path / "a_1.ser", VALUES[:, :, :, 0], scan=SCAN, valid=valid)

    (dataset,) = read(path)

    assert dataset.problem is None
    assert facts(dataset)["Data Dimensions"] == size


def test_a_file_that_is_cut_off_keeps_its_facts(tmp_path: Path) -> None:
    path = write_ser(tmp_path / "a_1.ser", VALUES, scan=SCAN)
    path.write_bytes(path.read_bytes()[:-500])

    (dataset,) = read(path)

    assert facts(dataset)["Data Dimensions"] == "4 × 3 × 6 × 8"
    assert dataset.problem == "its data cannot be shown: it is cut off"


def test_a_damaged_description_leaves_what_the_series_says(tmp_path: Path) -> None:
    path = write_ser(tmp_path / "a_1.ser", VALUES[0, 0])
    (tmp_path / "a.emi").write_bytes(b"\0<ObjectInfo><Experim")

    assert facts(read(path)[0])["Data Dimensions"] == "6 × 8"


@pytest.mark.parametrize("raw", [b"", b"II", b"some other program's file of that name"])
def test_the_name_alone_does_not_make_a_series(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.ser"
    path.write_bytes(raw)

    with pytest.raises(DamagedFileError):
        read(path)


def test_a_description_without_series_says_what_is_missing(tmp_path: Path) -> None:
    path = write_emi(tmp_path / "a.emi", description())

    with pytest.raises(DamagedFileError, match=r"no \.ser file beside it"):
        read(path)


def test_entities_in_a_description_are_not_expanded() -> None:
    bomb = '<!DOCTYPE ObjectInfo [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><ObjectInfo><X>&b;</X></ObjectInfo>'
    root = parse_xml(bomb)

    assert root is not None
    assert "aaa" not in str(describe(root).facts)


def test_descriptions_are_found_among_binary_data() -> None:
    emi = b"\x01\x02<ObjectInfo>1</ObjectInfo>\0\0<ObjectInfo>2</ObjectInfo>\xff<ObjectInfo>cut"

    assert object_infos(emi) == [b"<ObjectInfo>1</ObjectInfo>", b"<ObjectInfo>2</ObjectInfo>"]


def test_what_the_vocabulary_has_no_word_for_keeps_its_label() -> None:
    root = parse_xml(description())
    assert root is not None

    assert Fact("TIA: Mode", "TEM Imaging") in describe(root).facts
