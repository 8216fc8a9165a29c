"""Tif files whose private tags describe the acquisition."""

import struct
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import require_module

require_module("tifffile", "nexus-tasks[readers]")

import numpy as np  # noqa: E402 after the requirement
import tifffile  # noqa: E402

from nexus_tasks.builder.readers.base import Dataset  # noqa: E402
from nexus_tasks.builder.readers.tif import TaggedTif  # noqa: E402
from tests.unit.builder.readers.made_files import data_file, description  # noqa: E402

PICTURE = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
TESCAN_MAIN = (
    "Date=2024-05-06\nDevice=TESCAN AMBER X\nMagnification=160000.0\nPixelSizeX=0.0000000015625\n"
    "PixelSizeY=0.0000000015625\nSoftwareVersion=TESCAN Essence Version 1.3\nTime=08:00:00\nUserName=ann\n"
)
TESCAN_SEM = (
    "Detector=E-T\nDwellTime=0.00001\nGun=Schottky\nHV=15000.0\nSpotSize=0.000000003\nStageRotation=30.0\n"
    "StageX=0.00407293\nWD=0.005947501\n"
)
FIBICS = (
    '<?xml version="1.0" encoding="iso-8859-1"?><Fibics version="1.0"><Application><Version>NPVE v4.5</Version>'
    "<Date>2024-05-06T10:00:00.5-04:00</Date></Application><Image><Beam>Orion</Beam><Aperture>Ne 10 µm</Aperture>"
    '<Detector>ET</Detector></Image><Scan><Dwell units="ns">10000</Dwell><FOV_X units="um">2.5</FOV_X>'
    "<Ux>0.003</Ux><Uy>0.004</Uy><Vx>-0.004</Vx><Vy>0.003</Vy></Scan>"
    '<Stage><X units="um">-21319.2</X></Stage><BeamInfo><item name="AccV">30000</item>'
    '<item name="GFISGas">He</item></BeamInfo></Fibics>'
)
ORION = (
    "<ImageTags>"
    + "".join(
        f"<{name}><Value>{value}</Value><Units>{unit}</Units></{name}>"
        for name, value, unit in [
            ("ScalingX", "9.765625E-10", "m"),
            ("ScalingY", "9.765625E-10", "m"),
            ("AccelerationVoltage", "29997", "Volts"),
            ("WorkingDistance", "11.977", "mm"),
            ("Fov", "1", "Microns"),
            ("DetectorName", "ETDetector", ""),
            ("DwellTime", "0.5", "uSec"),
            ("StageX", "25157.23", "um"),
            ("TimeStamp", "5/06/2024 1:00:00 PM", ""),
            ("Magnification4x5", "114300", ""),
            ("GFIS.BeamCurrent", "0.938", "pA"),
            ("GFIS.IonGas", "Helium", ""),
        ]
    )
    + "</ImageTags>"
)


def tescan_tag() -> bytes:
    blocks = [(1, b"\0\0\0\x0cjP  picture"), (2, TESCAN_MAIN.encode()), (3, TESCAN_SEM.encode())]
    return b"".join(struct.pack("<IH", len(raw) + 2, kind) + raw for kind, raw in blocks) + b"\x02\0\0\0\0\0"


def write(path: Path, *tags: tuple[int, Any], picture: np.ndarray = PICTURE, **more: Any) -> Path:
    extra = [
        (code, 1, len(value), value, True) if isinstance(value, bytes) else (code, "s", 0, value, True)
        for code, value in tags
    ]
    tifffile.imwrite(path, picture, extratags=extra, metadata=None, **more)
    return path


def read(path: Path) -> Dataset:
    reader, file = TaggedTif(), data_file(path)
    assert reader.fits(file)
    (dataset,) = reader.read(file)
    return dataset


def facts(dataset: Dataset) -> dict[str, str]:
    return {fact.name: f"{fact.value} {fact.unit or ''}".strip() for fact in dataset.facts}


def test_tescans_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", (50431, tescan_tag()), datetime=datetime(2024, 5, 6, 10, 1))  # noqa: DTZ001

    dataset = read(path)

    assert (dataset.type, dataset.reader, dataset.problem) == ("Image", "Tescan", None)
    assert dataset.acquired == datetime(2024, 5, 6, 10, 1)  # noqa: DTZ001 local; the vendor's time is in UTC or not
    said = facts(dataset)
    assert said["Acceleration Voltage"] == "15 kV"
    assert said["Magnification"] == "160000"
    assert said["Working Distance"] == "5.9475 mm"
    assert said["Pixel Size"] == "1.5625 nm"
    assert said["Dwell Time"] == "10 µs"
    assert said["Stage X"] == "4.07293 mm"
    assert said["Stage Rotation"] == "30 °"
    assert said["Spot Size"] == "3 nm"
    assert said["Detector"] == "E-T"
    assert said["Microscope"] == "TESCAN AMBER X"
    assert said["Tescan: Gun"] == "Schottky"
    assert said["Tescan: Time"] == "08:00:00"


def test_the_header_beside_a_tescan_tif_serves_where_there_is_no_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.hdr").write_text(f"[MAIN]\n{TESCAN_MAIN}\n[SEM]\n{TESCAN_SEM}")

    assert facts(read(path))["Acceleration Voltage"] == "15 kV"


def test_a_header_of_another_kind_does_not_make_a_tescan_tif(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.hdr").write_text("ENVI\nsamples = 30\n")

    assert not TaggedTif().fits(data_file(path))


def test_fibics_tag(tmp_path: Path) -> None:
    dataset = read(write(tmp_path / "a.tif", (51023, FIBICS.encode())))

    assert dataset.reader == "Fibics"
    assert dataset.acquired == datetime(2024, 5, 6, 10, 0, 0, 500000, tzinfo=timezone(timedelta(hours=-4)))
    said = facts(dataset)
    assert said["Acceleration Voltage"] == "30 kV"
    assert said["Field of View"] == "2.5 µm"
    assert said["Pixel Size"] == "5 nm"
    assert said["Dwell Time"] == "10 µs"
    assert said["Stage X"] == "-21.3192 mm"
    assert said["Detector"] == "ET"
    assert said["Fibics: BeamInfo.GFISGas"] == "He"
    assert "Magnification" not in said


def test_orions_tag(tmp_path: Path) -> None:
    dataset = read(write(tmp_path / "a.tif", (65000, ORION.encode())))

    assert dataset.reader == "Orion"
    assert dataset.acquired == datetime(2024, 5, 6, 13)  # noqa: DTZ001 the file names no zone
    said = facts(dataset)
    assert said["Acceleration Voltage"] == "29.997 kV"
    assert said["Magnification"] == "114300"
    assert said["Pixel Size"] == "0.976562 nm"
    assert said["Beam Current"] == "0.000938 nA"
    assert said["Stage X"] == "25.1572 mm"
    assert said["Orion: GFIS.IonGas"] == "Helium"


@pytest.mark.parametrize("code", [65450, 65451, 65452])
def test_titans_tags(tmp_path: Path, code: int) -> None:
    dataset = read(write(tmp_path / "a.tif", (code, description("TEM uP SA Zoom Diffraction").encode())))

    assert (dataset.reader, dataset.type) == ("TIA", "Diffraction")
    assert dataset.acquired == datetime(2024, 5, 6, 10)  # noqa: DTZ001 the file names no zone
    assert facts(dataset)["Acceleration Voltage"] == "200 kV"
    assert facts(dataset)["Camera Length"] == "420 mm"


def test_colours_and_compression_are_read(tmp_path: Path) -> None:
    colours = np.zeros((20, 30, 4), dtype=np.uint8)
    path = write(tmp_path / "a.tif", (65000, ORION.encode()), picture=colours, compression="zlib", photometric="rgb")

    dataset = read(path)

    assert dataset.problem is None
    assert facts(dataset)["Data Type"] == "RGBA"
    assert facts(dataset)["Data Dimensions"] == "30 × 20"


def test_a_picture_that_is_cut_off_keeps_its_facts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", (65000, ORION.encode()))
    path.write_bytes(path.read_bytes()[:-300])

    dataset = read(path)

    assert dataset.problem
    assert facts(dataset)["Acceleration Voltage"] == "29.997 kV"


@pytest.mark.parametrize("tag", [(65000, "0.5"), (65000, "<Other/>"), (51023, "<html/>"), (50431, "")])
def test_other_programs_tifs_are_left_to_the_next_reader(tmp_path: Path, tag: tuple[int, str]) -> None:
    assert not TaggedTif().fits(data_file(write(tmp_path / "a.tif", tag)))
    assert not TaggedTif().fits(data_file(write(tmp_path / "plain.tif")))
