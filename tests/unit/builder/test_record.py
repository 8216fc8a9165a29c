"""Records built from folders of small files that the tests make; needs the `readers` extra."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import pytest
from lxml import etree

from nexus_tasks.builder.finder import FilesNotReadyError
from nexus_tasks.builder.readers import FileReader
from nexus_tasks.builder.record import BuiltRecord, SessionToBuild, build_record
from nexus_tasks.builder.record_xml import read_activities
from nexus_tasks.builder.schema import NAMESPACE
from nexus_tasks.builder.session_details import SessionDetails

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rsciio") is None, reason="the readers are not installed: nexus-tasks[readers]"
)

START = datetime(2024, 5, 1, 8, tzinfo=UTC)
NAMES = {"n": NAMESPACE}
MSA = """#FORMAT      : EMSA/MAS Spectral Data File
#VERSION     : 1.0
#TITLE       : Steel
#DATE        : 29-AUG-2022
#TIME        : 10:14
#OWNER       : Ann
#NPOINTS     : 4.
#NCOLUMNS    : 1.
#XUNITS      : eV
#YUNITS      : Counts
#DATATYPE    : Y
#XPERCHAN    : 5.0
#OFFSET      : 0.0
#SIGNALTYPE  : EDS
#BEAMKV   -kV: 15.0
#SPECTRUM    : Spectral Data Starts Here
1.0
2.0
9.0
2.0
#ENDOFDATA   :
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[FileReader]:
    with FileReader() as reader:
        yield reader


@pytest.fixture
def session(tmp_path: Path) -> SessionToBuild:
    (tmp_path / "data" / "SEM").mkdir(parents=True)
    return SessionToBuild(
        identifier="session-1",
        instrument_pid="SEM-1",
        instrument_name="Quanta",
        folder=Path("SEM"),
        start=START,
        end=START + timedelta(hours=4),
        user="Ann",
        zone=ZoneInfo("America/New_York"),
    )


def stamp(path: Path, minutes: float) -> None:
    moment = (START + timedelta(minutes=minutes)).timestamp()
    os.utime(path, (moment, moment))


def put_tif(path: Path, minutes: float) -> None:
    import numpy as np
    import tifffile

    tifffile.imwrite(path, np.arange(600, dtype="uint16").reshape(20, 30))
    stamp(path, minutes)


def put_msa(path: Path, minutes: float) -> None:
    path.write_text(MSA)
    stamp(path, minutes)


def put_hspy_spectrum_images(path: Path, minutes: float, count: int = 1) -> None:
    import numpy as np

    h5py = pytest.importorskip("h5py")
    axes = [("y", 3, "nm", True), ("x", 4, "nm", True), ("Energy", 5, "eV", False)]
    with h5py.File(path, "w") as file:
        file.attrs.update({"file_format": "HyperSpy", "file_format_version": "3.3"})
        for cube in range(count):
            experiment = file.create_group(f"Experiments/cube{cube}")
            experiment.create_dataset("data", data=np.ones((3, 4, 5)))
            for number, (name, size, unit, navigate) in enumerate(axes):
                axis = experiment.create_group(f"axis-{number}")
                axis.attrs.update({"_type": "UniformDataAxis", "name": name, "size": size, "units": unit})
                axis.attrs.update({"scale": 1.0, "offset": 0.0, "navigate": navigate})
            metadata = experiment.create_group("metadata")
            general = {"title": f"cube {cube}", "date": "2024-05-01", "time": "04:30:00"}
            metadata.create_group("General").attrs.update(general)
            metadata.create_group("Signal").attrs["signal_type"] = ""
            metadata.create_group("Acquisition_instrument/TEM").attrs["beam_energy"] = 200.0
            experiment.create_group("original_metadata")
    stamp(path, minutes)


def build(session: SessionToBuild, tmp_path: Path, reader: FileReader, **more: Any) -> Any:
    return build_record(session, data_root=tmp_path / "data", preview_root=tmp_path / "previews", reader=reader, **more)


def title(record: BuiltRecord) -> str:
    return str(etree.fromstring(record.xml).findtext("n:title", namespaces=NAMES))


def dataset(xml: bytes, name: str) -> tuple[str, dict[str, str]]:
    """The type of a dataset, and all that a record says about it."""
    root = etree.fromstring(xml)
    for activity in root.iterfind("n:acquisitionActivity", NAMES):
        for each in activity.iterfind("n:dataset", NAMES):
            if each.findtext("n:name", namespaces=NAMES) == name:
                params = [*activity.iterfind("n:setup/n:param", NAMES), *each.iterfind("n:meta", NAMES)]
                said = {str(one.get("name")): f"{one.text} {one.get('unit') or ''}".strip() for one in params}
                return str(each.get("type")), said
    raise AssertionError(f"{name} is not in the record")


def test_without_files_in_the_window_there_is_no_record(
    session: SessionToBuild, tmp_path: Path, reader: FileReader
) -> None:
    put_tif(tmp_path / "data/SEM/early.tif", -1)

    assert build(session, tmp_path, reader) is None
    assert not (tmp_path / "previews").exists()


def test_files_are_read_grouped_and_shown(session: SessionToBuild, tmp_path: Path, reader: FileReader) -> None:
    folder = tmp_path / "data/SEM"
    put_tif(folder / "a b.tif", 10)
    put_msa(folder / "steel.msa", 11)
    put_hspy_spectrum_images(folder / "cube.hspy", 60)
    (folder / "notes.txt").write_text("hello")
    stamp(folder / "notes.txt", 61)

    record = build(session, tmp_path, reader)

    assert title(record) == "Experiment on the Quanta on 2024-05-01"
    assert record.activities == [
        {"files": ["SEM/a b.tif", "SEM/steel.msa"], "previews": ["SEM/a b.tif.thumb.png", "SEM/steel.msa.thumb.png"]},
        {
            "files": ["SEM/cube.hspy", "SEM/notes.txt"],
            "previews": ["SEM/cube.hspy.thumb.png", "SEM/notes.txt.thumb.png"],
        },
    ]
    assert read_activities(record.xml) == record.activities
    for preview in ("a b.tif", "steel.msa", "cube.hspy"):
        assert (tmp_path / f"previews/SEM/{preview}.thumb.png").read_bytes().startswith(b"\x89PNG")

    kind, said = dataset(record.xml, "a b.tif")
    assert (kind, said["Data Dimensions"]) == ("Image", "30 × 20")
    kind, said = dataset(record.xml, "steel.msa")
    assert (kind, said["Acceleration Voltage"]) == ("Spectrum", "15 kV")
    assert said["Acquisition Time"] == "2022-08-29T10:14:00-04:00"
    kind, said = dataset(record.xml, "cube.hspy")
    assert (kind, said["Acceleration Voltage"]) == ("SpectrumImage", "200 kV")
    assert said["Acquisition Time"] == "2024-05-01T04:30:00-04:00"
    assert dataset(record.xml, "notes.txt")[0] == "Notes"


class Picture(bytes):
    """A preview that counts how many of them are in memory."""

    kept = 0

    def __new__(cls, content: bytes) -> Self:
        cls.kept += 1
        return super().__new__(cls, content)

    def __del__(self) -> None:
        type(self).kept -= 1


class Illustrator(FileReader):
    """Gives every dataset a preview that is counted."""

    def read(self, file: Any, **options: Any) -> Any:
        return [replace(dataset, preview=Picture(b"png")) for dataset in super().read(file, **options)]


def test_no_more_previews_are_kept_in_memory_than_those_of_one_file(session: SessionToBuild, tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"data/SEM/{number}.txt").write_text("hello")
        stamp(tmp_path / f"data/SEM/{number}.txt", number)
    kept = list[int]()

    with Illustrator() as reader:
        build(session, tmp_path, reader, heartbeat=lambda: kept.append(Picture.kept))

    assert kept == [0, 1, 1, 1, 1]
    assert [path.read_bytes() for path in (tmp_path / "previews/SEM").iterdir()] == [b"png"] * 5


def test_each_dataset_of_a_file_has_its_own_name_and_preview(
    session: SessionToBuild, tmp_path: Path, reader: FileReader
) -> None:
    put_hspy_spectrum_images(tmp_path / "data/SEM/two.hspy", 1, count=2)

    record = build(session, tmp_path, reader)

    assert record.activities == [
        {
            "files": ["SEM/two.hspy", "SEM/two.hspy"],
            "previews": ["SEM/two.hspy.1.thumb.png", "SEM/two.hspy.2.thumb.png"],
        }
    ]
    assert {path.name for path in (tmp_path / "previews/SEM").iterdir()} == {
        "two.hspy.1.thumb.png",
        "two.hspy.2.thumb.png",
    }
    assert dataset(record.xml, "two.hspy (1 of 2)")[1]["Title"] == "cube 0"
    assert dataset(record.xml, "two.hspy (2 of 2)")[1]["Title"] == "cube 1"


def test_a_file_cannot_run_code_even_in_the_child(session: SessionToBuild, tmp_path: Path, reader: FileReader) -> None:
    # RosettaSciIO's netCDF reader evaluates the file's history; whatever that format needs, it must not be tried.
    path = tmp_path / "data/SEM/a.nc"
    path.write_bytes(b"CDF")
    stamp(path, 1)

    record = build(session, tmp_path, reader)

    assert dataset(record.xml, "a.nc")[0] == "Unknown"
    assert b"netCDF" not in record.xml


def test_building_again_gives_the_same_bytes_and_leaves_previews_alone(
    session: SessionToBuild, tmp_path: Path, reader: FileReader
) -> None:
    put_tif(tmp_path / "data/SEM/a.tif", 10)

    first = build(session, tmp_path, reader)
    written = (tmp_path / "previews/SEM/a.tif.thumb.png").stat()
    second = build(session, tmp_path, reader)

    assert first == second
    assert (tmp_path / "previews/SEM/a.tif.thumb.png").stat() == written


def test_a_picture_is_an_image_and_a_damaged_one_says_so(
    session: SessionToBuild, tmp_path: Path, reader: FileReader
) -> None:
    from PIL import Image

    folder = tmp_path / "data/SEM"
    Image.new("RGB", (40, 30), "red").save(folder / "screen.png")
    stamp(folder / "screen.png", 1)
    (folder / "broken.png").write_bytes(b"\x89PNG and then nothing")
    stamp(folder / "broken.png", 2)

    record = build(session, tmp_path, reader)

    assert dataset(record.xml, "screen.png")[0] == "Image"
    assert dataset(record.xml, "broken.png")[0] == "Unknown"
    assert b"Not read in full" in record.xml
    assert str(tmp_path).encode() not in record.xml


def test_a_heartbeat_goes_before_every_file_and_what_it_raises_ends_the_build(
    session: SessionToBuild, tmp_path: Path, reader: FileReader
) -> None:
    for number in range(3):
        put_tif(tmp_path / f"data/SEM/{number}.tif", number + 1)
    beats: list[int] = []

    build(session, tmp_path, reader, heartbeat=lambda: beats.append(len(beats)))
    assert beats == [0, 1, 2]

    def taken_over() -> None:
        raise KeyError("claim")

    with pytest.raises(KeyError, match="claim"):
        build(session, tmp_path, reader, heartbeat=taken_over)


def test_the_day_in_the_title_is_the_instruments(session: SessionToBuild, tmp_path: Path, reader: FileReader) -> None:
    put_tif(tmp_path / "data/SEM/a.tif", 10)

    tokyo = build(replace(session, zone=ZoneInfo("Pacific/Kiritimati")), tmp_path, reader)

    assert title(tokyo).endswith("2024-05-01")
    late = replace(session, start=START - timedelta(hours=6), zone=ZoneInfo("America/New_York"))
    assert title(build(late, tmp_path, reader)).endswith("2024-04-30")


def test_a_file_that_grows_while_the_record_is_built_makes_the_session_wait(
    session: SessionToBuild, tmp_path: Path, reader: FileReader
) -> None:
    put_msa(tmp_path / "data/SEM/a.msa", 10)

    def grow() -> None:
        with (tmp_path / "data/SEM/a.msa").open("a") as file:
            file.write("more")

    with pytest.raises(FilesNotReadyError, match=r"SEM/a\.msa has changed"):
        build(session, tmp_path, reader, heartbeat=grow)


def test_with_a_clock_that_is_ahead_the_record_says_the_true_times(
    session: SessionToBuild, tmp_path: Path, reader: FileReader
) -> None:
    put_tif(tmp_path / "data/SEM/a.tif", 4 * 60 + 30)  # by its own clock after the end

    assert build(session, tmp_path, reader) is None
    record = build(replace(session, clock_offset=timedelta(hours=1)), tmp_path, reader)

    assert b"<startTime>2024-05-01T07:30:00-04:00</startTime>" in record.xml
    assert dataset(record.xml, "a.tif")[1]["Modification Time"].startswith("2024-05-01T")
    assert "12:30" not in dataset(record.xml, "a.tif")[1]["Modification Time"]


def test_what_is_said_about_the_session_stands_in_its_record(
    session: SessionToBuild, tmp_path: Path, reader: FileReader
) -> None:
    put_msa(tmp_path / "data/SEM/a.msa", 10)
    said = SessionDetails.parse({"title": "Grain size", "motivation": "Why not", "samples": [{"name": "Steel"}]})

    record = build(replace(session, details=said), tmp_path, reader)

    assert title(record) == "Grain size"
    assert b"<motivation>Why not</motivation>" in record.xml
    assert b"<experimenter>Ann</experimenter>" in record.xml  # nobody else is named: the user
    assert build(replace(session, details=said), tmp_path, reader).xml == record.xml
