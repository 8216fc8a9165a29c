"""Real files of the NexusLIMS test set; skipped where they do not lie beside the repository."""

import importlib.util
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
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
        ("Titan_TEM", datetime(2018, 11, 13, tzinfo=UTC), [2, 8, 1, 6]),
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
    assert set(said(record.xml, "Acceleration Voltage")) == {"300 kV"}
    assert "2018-11-13T12:49:45-05:00" in said(record.xml, "Acquisition Time")
    assert said(record.xml, "Acquisition Time").count("2018-11-13T15:04:44-05:00") == 2


def test_every_titan_dm3_has_its_own_date_and_300_kv(instruments: Path, reader: FileReader) -> None:
    files = [file for file in list_files(Path("Titan_TEM"), data_root=instruments) if file.path.suffix == ".dm3"]
    assert len(files) == 8

    for file in files:
        (dataset,) = reader.read(file, zone=ZONE)
        facts = {fact.name: (fact.value, fact.unit) for fact in dataset.facts}
        assert facts["Acceleration Voltage"] == ("300", "kV")
        assert dataset.acquired is not None
        assert dataset.acquired.tzinfo is not None
        assert dataset.acquired.date().isoformat() == "2018-11-13"
        assert "Acquisition Time" in facts


EXPECTED = {
    "leo_edax_test.msa": ["Spectrum"],
    "leo_edax_test.spc": ["Spectrum"],
    "test_STEM_image.dm3": ["Image"],
    "quanta_bad_metadata.tif": ["Unknown"],
    "quanta_image.tif": ["Image"],
    "scios_with_xml_metadata.tif": ["Image"],
    "tescan-pfib_dataZeroed.tif": ["Image"],
    "test_corrupted.dm3": ["Unknown"],
    "neoarm-gatan_SI_dataZeroed.dm4": ["Image", "Image", "Image", "SpectrumImage"],
}


def test_one_file_of_each_format_goes_through(tmp_path: Path, reader: FileReader) -> None:
    for archive in (SHARED / "data").glob("*.tar.gz"):
        if archive.name != "test_record_files.tar.gz":
            unpacked(archive.name, tmp_path)
    for file in (SHARED / "data").iterdir():
        if file.name in EXPECTED:
            (tmp_path / file.name).write_bytes(file.read_bytes())

    datasets: dict[str, tuple[Dataset, ...]] = {
        file.path.name: reader.read(file, zone=ZONE) for file in list_files(Path(), data_root=tmp_path)
    }

    assert {name: [str(dataset.type) for dataset in found] for name, found in datasets.items()} == EXPECTED
    assert str(datasets["test_corrupted.dm3"][0].problem).startswith("DigitalMicrograph: ")
    assert datasets["quanta_bad_metadata.tif"][0].problem
    (quanta,) = datasets["quanta_image.tif"]
    assert ("Acceleration Voltage", "30", "kV") in [(fact.name, fact.value, fact.unit) for fact in quanta.facts]
    names = [dataset.name for dataset in datasets["neoarm-gatan_SI_dataZeroed.dm4"]]
    assert names[3] == "neoarm-gatan_SI_dataZeroed.dm4 (4 of 4)"
