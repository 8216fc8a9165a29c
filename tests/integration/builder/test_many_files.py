"""A session with thousands of small files is built in seconds, and each file costs the same however many there are."""

import os
import resource
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from nexus_tasks.builder.readers import FileReader
from nexus_tasks.builder.record import SessionToBuild, build_record
from tests.requirements import require_module
from tests.unit.builder.readers.made_files import DM_TAGS, description, write_dm, write_emi, write_msa, write_ser

START = datetime(2024, 5, 6, 8, tzinfo=UTC)
LONGEST = 30.0  # seconds of processor time for 2,000 files; they take 12 on two cores of 2024
GROWTH = 1.6  # how much more a file of many may cost than a file of few; the machine may be busy in between


class Cost(NamedTuple):
    wall: float
    processor: float  # of this process and the child


def make_files(folder: Path, count: int) -> None:
    """Small files of four formats, one every two seconds."""
    import numpy as np

    picture = np.arange(12 * 16, dtype=np.int16).reshape(12, 16)
    folder.mkdir(parents=True)
    models = {
        "dm3": write_dm(folder / "model.dm3", picture, tags=DM_TAGS).read_bytes(),
        "ser": write_ser(folder / "model_1.ser", picture.astype(np.uint16)).read_bytes(),
        "msa": write_msa(folder / "model.msa").read_bytes(),
        "txt": b"Grid 7\n",
    }
    for path in folder.iterdir():
        path.unlink()
    for number in range(count):
        extension = list(models)[number % len(models)]
        path = folder / f"file_{number:05d}_1.{extension}"
        path.write_bytes(models[extension])
        if extension == "ser":
            write_emi(folder / f"file_{number:05d}.emi", description())
        moment = (START + timedelta(seconds=2 * number + 1)).timestamp()
        os.utime(path, (moment, moment))


def build(count: int, tmp_path: Path) -> Cost:
    root = tmp_path / str(count)
    make_files(root / "TEM", count)
    session = SessionToBuild("s", "tem-1", "TEM", Path("TEM"), START, START + timedelta(days=1), "Ann", UTC)
    began, before = time.monotonic(), processor()
    with FileReader() as reader:
        record = build_record(session, data_root=root, preview_root=root / "previews", reader=reader)
    assert record is not None
    files = [file for activity in record.activities for file in activity["files"]]
    previews = [preview for activity in record.activities for preview in activity["previews"] if preview]
    assert (len(files), len(previews)) == (count, count)
    assert record.xml.count(b">200<") >= 1  # the voltage, once where all of an activity agree
    return Cost(time.monotonic() - began, processor() - before)


def processor() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def test_two_thousand_files_take_seconds_and_none_is_dearer_than_one_of_five_hundred(tmp_path: Path) -> None:
    require_module("rsciio", "nexus-tasks[readers]")
    few, many = build(500, tmp_path), build(2000, tmp_path)

    assert many.processor < LONGEST
    assert many.processor / 2000 < GROWTH * few.processor / 500, (few, many)
