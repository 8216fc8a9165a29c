"""Real files of the NexusLIMS test set; skipped where they do not lie beside the repository."""

import importlib.util
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from lxml import etree

from nexus_tasks.builder.files import list_files
from nexus_tasks.builder.readers import Dataset, FileReader
from nexus_tasks.builder.record import BuiltRecord, SessionToBuild, build_record
from nexus_tasks.builder.schema import NAMESPACE, validate

SHARED = Path(__file__).resolve().parents[4] / "shared"
NAMES = {"n": NAMESPACE}
ZONE = ZoneInfo("America/New_York")

pytestmark = [
    pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared data are not beside the repository"),
    pytest.mark.skipif(importlib.util.find_spec("rsciio") is None, reason="the readers are not installed"),
]


@pytest.fixture(scope="module")
def reader() -> Iterator[FileReader]:
    with FileReader() as reader:
        yield reader


@pytest.fixture(scope="module")
def instruments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("test_record_files.tar.gz", tmp_path_factory.mktemp("instruments"))


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(SHARED / "data" / name) as archive:
        archive.extractall(folder, filter="data")
    return folder


def build(folder: str, day: datetime, instruments: Path, previews: Path, reader: FileReader) -> BuiltRecord:
    session = SessionToBuild(
        f"session-{folder}", f"{folder}-1", folder, Path(folder), day, day + timedelta(days=1), "Ann", ZONE
    )
    record = build_record(session, data_root=instruments, preview_root=previews, reader=reader)
    assert record is not None
    return record


def said(xml: bytes, name: str) -> list[str]:
    """Every value that a record gives for `name`, in setup or datasets, with its unit."""
    found = etree.fromstring(xml).iterfind(".//*[@name]", NAMES)
    return [f"{one.text} {one.get('unit') or ''}".strip() for one in found if one.get("name") == name]


@pytest.mark.parametrize(
    ("folder", "day", "files"),
    [
        ("Titan_TEM", datetime(2018, 11, 13, tzinfo=UTC), [10, 7]),
        ("JEOL_TEM", datetime(2019, 7, 24, tzinfo=UTC), [8]),
        ("Nexus_Test_Instrument", datetime(2021, 8, 2, tzinfo=UTC), [4]),
        ("Tofwerk_pFIB_TOFSIMS", datetime(2025, 12, 3, tzinfo=UTC), [2]),
    ],
)
def test_the_record_of_each_instrument_is_valid_for_the_nist_schema(
    folder: str, day: datetime, files: list[int], instruments: Path, tmp_path: Path, reader: FileReader
) -> None:
    record = build(folder, day, instruments, tmp_path, reader)

    validate(record.xml, SHARED / "specs" / "nexus-experiment.xsd")
    assert [len(activity["files"]) for activity in record.activities] == files
    previews = [preview for activity in record.activities for preview in activity["previews"] if preview]
    assert previews
    assert all((tmp_path / preview).read_bytes().startswith(b"\x89PNG") for preview in previews)
    without = {
        PurePosixPath(file).suffix
        for activity in record.activities
        for file, preview in zip(activity["files"], activity["previews"], strict=True)
        if preview is None
    }
    assert without <= {".txt", ".raw", ".jpg", ".jpeg"}  # no pictures: each of these holds some bytes of a ser file


class Expected(NamedTuple):
    """What was found in a file by other means: strings and struct for dm3, dm4, emi and spc, tifffile, h5py."""

    type: str
    acquired: str | None  # None: the file does not say, and its modification time stands in
    voltage: str | None = None  # kV
    magnification: str | None = None


TITAN = "Titan_TEM/researcher_a/project_alpha/20181113"
JEOL = "JEOL_TEM/researcher_b/project_beta/20190724"
NEXUS = "Nexus_Test_Instrument/test_files"
TOFWERK = "Tofwerk_pFIB_TOFSIMS/researcher_e/project_pfib/20251203"

# Voltage and magnification are missing where the file has none: the JEOL's camera does not talk to its microscope, and
# FEI's and Fibics' programs write the field of view instead of a magnification.
EXPECTED: dict[str, list[Expected]] = {
    f"{TITAN}/image_001.dm3": [Expected("Image", "2018-11-13T12:49:45-05:00", "300", "13000")],
    f"{TITAN}/image_002.dm3": [Expected("Image", "2018-11-13T12:56:01-05:00", "300", "13000")],
    f"{TITAN}/image_003.dm3": [Expected("Image", "2018-11-13T13:08:53-05:00", "300", "13000")],
    f"{TITAN}/image_004.dm3": [Expected("Image", "2018-11-13T13:52:15-05:00", "300", "13000")],
    f"{TITAN}/image_005.dm3": [Expected("Image", "2018-11-13T14:14:16-05:00", "300", "8100")],
    f"{TITAN}/image_006.dm3": [Expected("Image", "2018-11-13T14:26:09-05:00", "300", "8100")],
    f"{TITAN}/image_007.dm3": [Expected("Image", "2018-11-13T14:35:26-05:00", "300", "8100")],
    f"{TITAN}/image_008.dm3": [Expected("Image", "2018-11-13T14:45:27-05:00", "300", "620000")],
    f"{TITAN}/scan_001_1.ser": [Expected("Image", "2018-11-13T15:04:44-05:00", "300", "20000")],
    f"{TITAN}/scan_001_2.ser": [Expected("Image", "2018-11-13T15:04:44-05:00", "300", "20000")],
    f"{TITAN}/orion-fibics_dataZeroed.tif": [Expected("Image", "2025-05-27T10:32:12-04:00", "30")],
    f"{TITAN}/orion-zeiss_dataZeroed.tif": [Expected("Image", "2025-01-01T13:00:00-05:00", "29.997", "114300")],
    f"{TITAN}/tescan-pfib_dataZeroed.tif": [Expected("Image", "2025-12-03T12:20:37-05:00", "15", "160000")],
    f"{TITAN}/test_include.jpeg": [Expected("Unknown", None)],
    f"{TITAN}/test_include.jpg": [Expected("Unknown", None)],
    f"{TITAN}/test_include.raw": [Expected("Unknown", None)],
    f"{TITAN}/test_include.txt": [Expected("Unknown", None)],
    f"{JEOL}/beam_study_1/image_1.dm3": [Expected("Image", "2019-07-24T11:17:22-04:00")],
    f"{JEOL}/beam_study_1/image_2.dm3": [Expected("Image", "2019-07-24T11:16:38-04:00")],
    f"{JEOL}/beam_study_2/image_3.dm3": [Expected("Image", "2019-07-24T13:07:41-04:00")],
    f"{JEOL}/beam_study_2/image_4.dm3": [Expected("Image", "2019-07-24T13:10:52-04:00")],
    f"{JEOL}/beam_study_2/image_5.dm3": [Expected("Image", "2019-07-24T13:11:37-04:00")],
    f"{JEOL}/beam_study_3/image_6.dm3": [Expected("Image", "2019-07-24T14:45:22-04:00")],
    f"{JEOL}/beam_study_3/image_7.dm3": [Expected("Image", "2019-07-24T14:51:54-04:00")],
    f"{JEOL}/beam_study_3/image_8.dm3": [Expected("Image", "2019-07-24T15:00:44-04:00")],
    f"{NEXUS}/sample_001.dm3": [Expected("Image", "2021-08-02T15:06:24-04:00", "300", "620000")],
    f"{NEXUS}/sample_002.dm3": [Expected("Image", "2021-08-02T15:09:38-04:00", "300", "620000")],
    f"{NEXUS}/sample_003.dm3": [Expected("Image", "2021-08-02T15:10:26-04:00", "300", "620000")],
    f"{NEXUS}/sample_004.dm3": [Expected("Image", "2021-08-02T15:12:07-04:00", "300", "620000")],
    f"{TOFWERK}/pfib-tofwerk opened.h5": [Expected("Spectrum", "2025-12-03T11:31:45-05:00", "30")],
    f"{TOFWERK}/pfib-tofwerk raw.h5": [Expected("Spectrum", "2025-12-03T11:31:45-05:00", "30")],
}
SINGLE: dict[str, list[Expected]] = {
    "leo_edax_test.msa": [Expected("Spectrum", "2022-08-29T10:14:00-04:00", "10")],
    "leo_edax_test.spc": [Expected("Spectrum", "2022-08-29T10:14:00-04:00", "10")],
    "neoarm-gatan_SI_dataZeroed.dm4": [
        Expected("Image", "2025-01-01T01:10:00-05:00", "200", "800000"),
        Expected("Image", "2025-01-01T15:21:01-05:00", "200", "800000"),
        Expected("Image", "2025-01-01T15:21:01-05:00", "200", "800000"),
        Expected("SpectrumImage", "2025-01-01T15:21:01-05:00", "200", "800000"),
    ],
    "quanta_bad_metadata.tif": [Expected("Unknown", None)],
    "quanta_image.tif": [Expected("Image", "2017-12-18T13:04:14-05:00", "30")],
    "scios_with_xml_metadata.tif": [Expected("Image", "2024-05-01T12:56:16-04:00", "5")],
    "tescan-pfib_dataZeroed.tif": [Expected("Image", "2025-12-03T12:20:37-05:00", "15", "160000")],
    "test_STEM_image.dm3": [Expected("Image", "2016-08-08T16:26:37-04:00", "200", "225000")],
    "test_corrupted.dm3": [Expected("Unknown", None)],
}


def found(dataset: Dataset) -> Expected:
    facts = {fact.name: (fact.value, fact.unit) for fact in dataset.facts}
    assert dataset.acquired is not None
    voltage = facts.get("Acceleration Voltage", (None, "kV"))
    magnification = facts.get("Magnification", (None, None))
    assert (voltage[1], magnification[1]) == ("kV", None)
    acquired = facts.get("Acquisition Time", (None, None))[0]
    assert acquired is None or acquired == dataset.acquired.isoformat(timespec="seconds")
    return Expected(dataset.type, acquired, voltage[0], magnification[0])


def test_type_date_voltage_and_magnification_are_right_for_every_file(instruments: Path, reader: FileReader) -> None:
    files = list_files(Path(), data_root=instruments)

    assert {str(file.location): [found(dataset) for dataset in reader.read(file, zone=ZONE)] for file in files} == (
        EXPECTED
    )


def test_titan_records_hold_dates_and_voltages(instruments: Path, tmp_path: Path, reader: FileReader) -> None:
    record = build("Titan_TEM", datetime(2018, 11, 13, tzinfo=UTC), instruments, tmp_path, reader)

    datasets: dict[str, Any] = {
        str(dataset.findtext("n:name", namespaces=NAMES)): dataset
        for dataset in etree.fromstring(record.xml).iterfind(".//n:dataset", NAMES)
    }
    assert "scan_001.emi" not in datasets
    assert "test_ignore.db" not in datasets
    assert "tescan-pfib_dataZeroed.hdr" not in datasets
    # Eight dm3 and two ser with the settings of their emi; each either beside its dataset or once for its activity.
    assert said(record.xml, "Acceleration Voltage").count("300 kV") >= 5
    assert set(said(record.xml, "Acceleration Voltage")) == {"300 kV", "15 kV", "29.997 kV", "30 kV"}
    assert "2018-11-13T12:49:45-05:00" in said(record.xml, "Acquisition Time")
    assert said(record.xml, "Acquisition Time").count("2018-11-13T15:04:44-05:00") == 2


def test_one_file_of_each_format_is_right_and_the_damaged_ones_say_why(tmp_path: Path, reader: FileReader) -> None:
    for archive in (SHARED / "data").glob("*.tar.gz"):
        if archive.name != "test_record_files.tar.gz":
            unpacked(archive.name, tmp_path)
    for file in (SHARED / "data").iterdir():
        if file.name in SINGLE:
            (tmp_path / file.name).write_bytes(file.read_bytes())

    datasets = {file.path.name: reader.read(file, zone=ZONE) for file in list_files(Path(), data_root=tmp_path)}

    assert {name: [found(dataset) for dataset in several] for name, several in datasets.items()} == SINGLE
    assert str(datasets["test_corrupted.dm3"][0].problem).startswith("DigitalMicrograph: it ends too early")
    assert datasets["quanta_bad_metadata.tif"][0].problem
    names = [dataset.name for dataset in datasets["neoarm-gatan_SI_dataZeroed.dm4"]]
    assert names[3] == "neoarm-gatan_SI_dataZeroed.dm4 (4 of 4)"


def test_all_vendors_speak_one_language(instruments: Path, tmp_path: Path, reader: FileReader) -> None:
    unpacked("scios_with_xml_metadata.tar.gz", tmp_path)
    files = [
        *(
            file
            for file in list_files(Path("Titan_TEM"), data_root=instruments)
            if file.path.suffix in {".tif", ".ser"}
        ),
        *list_files(Path(), data_root=tmp_path),
    ]
    units: dict[str, set[str | None]] = {}
    for file in files:
        (dataset,) = reader.read(file, zone=ZONE)
        for fact in dataset.facts:
            if ": " not in fact.name:
                units.setdefault(fact.name, set()).add(fact.unit)

    assert len(files) == 6
    for name in ("Acceleration Voltage", "Dwell Time", "Stage X", "Detector", "Microscope", "Pixel Size", "Software"):
        assert name in units
    assert {name: several for name, several in units.items() if len(several) > 1 and name != "Spot Size"} == {}
    assert (units["Dwell Time"], units["Stage X"], units["Pixel Size"]) == ({"µs"}, {"mm"}, {"nm"})
