"""No file hurts the process that reads it."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import pytest

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import Dataset, FileReader, ReaderStartError
from tests.requirements import require_module
from tests.unit.builder.readers.made_files import data_file

WHEN = datetime(2024, 5, 1, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
Command = Callable[[str], list[str]]

# A child that does what the name of the file says.
CHILD = """
import errno, os, signal, sys, time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from nexus_tasks.builder.readers import Fact, basic, child

TRIED = Path(__file__).with_name("tried")

def read(file):
    name, _, once = file.path.name.partition(", ")
    if once and TRIED.exists():
        return basic.read(file)
    TRIED.touch()
    match name:
        case "hang":
            time.sleep(600)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "share":
            raise ValueError("no header") from OSError(errno.EIO, "the share is away")
        case "number":
            return (replace(basic.read(file)[0], facts=(Fact("x", 5),)),)
        case "kind":
            return (replace(basic.read(file)[0], type="Film"),)
        case "no time":
            return (replace(basic.read(file)[0], acquired=""),)
        case "loop":
            while True:
                pass
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "swell":
            bytearray(8 << 30)
        case "chat":
            print("a library says hello", flush=True)
            os.system("echo and so does its child")
        case "raise":
            raise RuntimeError(f"two\\nlines about {file.path}")
        case "late":
            return (replace(basic.read(file)[0], acquired=datetime(2020, 7, 1, 10)),)
        case "pid":
            return (replace(basic.read(file)[0], reader=str(os.getpid())),)
        case "environment":
            return (replace(basic.read(file)[0], reader=" ".join(os.environ)),)
        case "empty":
            return ()
        case "large":
            return (replace(basic.read(file)[0], preview=bytes(3_000_000)),)
    return basic.read(file)

child.serve(read)
"""


def file(name: str) -> DataFile:
    return DataFile(Path(f"/data/{name}"), PurePosixPath(name), 5, WHEN)


def only(datasets: tuple[Dataset, ...]) -> Dataset:
    (dataset,) = datasets
    return dataset


@pytest.fixture
def command(tmp_path: Path) -> Command:
    def write(source: str) -> list[str]:
        script = tmp_path / "child.py"
        script.write_text(source)
        return [sys.executable, str(script)]

    return write


@pytest.fixture
def child(command: Command) -> list[str]:
    return command(CHILD)


def test_one_warm_child_reads_many_files_and_is_gone_afterwards(child: list[str]) -> None:
    with FileReader(command=child) as reader:
        readers = {only(reader.read(file("pid"))).reader for _ in range(3)}

    (pid,) = readers
    assert int(pid) != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_file_that_never_ends_is_given_up_in_time_and_the_next_one_is_read(child: list[str]) -> None:
    with FileReader(timeout_s=0.3, command=child) as reader:
        started = time.monotonic()
        stuck = only(reader.read(file("loop")))
        after = only(reader.read(file("fine")))

    assert stuck.type == "Unknown"
    assert stuck.problem == "reading it takes longer than 0.3 s"
    assert time.monotonic() - started < 10
    assert after.problem is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "the reader died of it (SIGSEGV)"),
        ("swell", "reading it needs more than 512 MiB of memory"),
        ("raise", "RuntimeError: two lines about raise"),
        ("empty", "it holds no datasets"),
    ],
)
def test_a_damaged_file_is_unknown_with_a_reason_and_the_next_one_is_read(
    child: list[str], name: str, reason: str
) -> None:
    with FileReader(memory_limit=512 * 1024**2, command=child) as reader:
        damaged = only(reader.read(file(name)))
        after = only(reader.read(file("fine")))

    assert (damaged.type, damaged.problem, damaged.acquired) == ("Unknown", reason, WHEN)
    assert [fact.name for fact in damaged.facts] == ["File Size", "Modification Time"]
    assert after.problem is None


@pytest.mark.parametrize("name", ["share, once", "kill, once", "crash, once", "hang, once"])
def test_a_failure_of_the_moment_is_none_of_the_file(child: list[str], name: str) -> None:
    with FileReader(timeout_s=8, command=child) as reader:  # seconds that a machine may stand still
        assert only(reader.read(file(name))).problem is None


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    """A file whose reading fails with EIO for ever, as on a bad sector: nothing is mapped where it begins."""
    if sys.platform != "linux":
        pytest.skip("only Linux has such a file")
    path = tmp_path / "a.dm3"
    path.symlink_to("/proc/self/mem")
    return path


@pytest.mark.parametrize("extension", ["dm3", "emd", "png", "txt", "ser"])
def test_a_file_that_cannot_be_read_while_its_storage_answers_is_unknown_with_the_reason(
    unreadable: Path, extension: str
) -> None:
    require_module("rsciio", "nexus-tasks[readers]")
    with FileReader() as reader:
        damaged = only(reader.read(data_file(unreadable.rename(unreadable.with_suffix(f".{extension}")))))

    assert damaged.type == "Unknown"
    assert "[Errno 5]" in str(damaged.problem)


class Away(type(Path())):  # type: ignore[misc]
    """A path on a share that does not answer any more, for the process that builds records."""

    def open(self, *_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))


@pytest.mark.parametrize("extension", ["dm3", "emd", "png", "txt", "ser"])
def test_while_the_storage_is_away_nothing_is_decided(unreadable: Path, extension: str) -> None:
    require_module("rsciio", "nexus-tasks[readers]")
    path = unreadable.rename(unreadable.with_suffix(f".{extension}"))

    with FileReader() as reader, pytest.raises(OSError, match=str(path)):
        reader.read(data_file(Away(path)))


@pytest.mark.parametrize("name", ["share", "kill", "raise"])
def test_no_failure_is_the_files_while_the_storage_is_away(child: list[str], name: str) -> None:
    there = file(name)

    with FileReader(command=child) as reader, pytest.raises(OSError, match=str(there.path)):
        reader.read(replace(there, path=Away(there.path)))


def test_a_file_that_is_gone_is_a_problem_of_the_file(child: list[str]) -> None:
    with FileReader(command=child) as reader:
        assert only(reader.read(file("share"))).problem == "ValueError: no header"


@pytest.mark.parametrize("name", ["number", "kind", "no time"])
def test_a_dataset_that_no_record_can_hold_costs_one_file(child: list[str], name: str) -> None:
    with FileReader(command=child) as reader:
        damaged = only(reader.read(file(name)))
        after = only(reader.read(file("fine")))

    assert damaged.type == "Unknown"
    assert "nonsense" in str(damaged.problem)
    assert after.problem is None


def test_what_libraries_print_does_not_disturb_the_answers(child: list[str]) -> None:
    with FileReader(command=child) as reader:
        assert only(reader.read(file("chat"))).problem is None


def test_an_answer_of_megabytes_arrives(child: list[str]) -> None:
    with FileReader(command=child) as reader:
        assert only(reader.read(file("large"))).preview == bytes(3_000_000)


def test_a_child_that_was_ended_between_two_files_is_replaced(child: list[str]) -> None:
    with FileReader(command=child) as reader:
        first = int(only(reader.read(file("pid"))).reader)
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        second = only(reader.read(file("pid")))

    assert second.problem is None
    assert int(second.reader) != first


def test_times_without_zone_are_in_the_zone_of_the_instrument(child: list[str]) -> None:
    with FileReader(command=child) as reader:
        dataset = only(reader.read(file("late"), zone=BERLIN))

    assert dataset.acquired == datetime(2020, 7, 1, 10, tzinfo=BERLIN)
    assert ("Acquisition Time", "2020-07-01T10:00:00+02:00") in [(fact.name, fact.value) for fact in dataset.facts]


def test_without_a_time_in_the_file_its_modification_time_counts(child: list[str]) -> None:
    with FileReader(command=child) as reader:
        dataset = only(reader.read(file("fine"), zone=BERLIN))

    assert dataset.acquired == WHEN
    assert dataset.acquired.utcoffset() == BERLIN.utcoffset(dataset.acquired.replace(tzinfo=None))
    assert "Acquisition Time" not in [fact.name for fact in dataset.facts]


def test_the_child_is_given_no_secrets(child: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NX_CDCS_TOKEN", "hush")

    with FileReader(command=child) as reader:
        names = only(reader.read(file("environment"))).reader.split()

    assert "PYTHONPATH" in names
    assert not [name for name in names if name.startswith("NX_")]


def test_without_the_readers_extra_there_are_basic_facts_and_one_warning(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    missing = command(
        "import sys; sys.modules['rsciio'] = None; from nexus_tasks.builder.readers import child; child.main()"
    )

    with FileReader(command=missing) as reader:
        datasets = [only(reader.read(file(name))) for name in ("a.dm3", "b.dm3")]

    assert [dataset.problem for dataset in datasets] == [None, None]
    assert [dataset.reader for dataset in datasets] == ["basic", "basic"]
    assert len(caplog.records) == 1
    assert "nexus-tasks[readers]" in caplog.text


def test_a_child_that_does_not_start_is_an_error_that_says_why(command: Command) -> None:
    broken = command("raise SystemExit('no such thing as luck')")

    with FileReader(command=broken) as reader, pytest.raises(ReaderStartError, match="no such thing as luck"):
        reader.read(file("a.dm3"))


def test_an_answer_that_makes_no_sense_is_a_problem_of_the_file(command: Command) -> None:
    nonsense = command("print('{\"ready\": true}', flush=True); input(); print('[1]', flush=True); input()")

    with FileReader(command=nonsense) as reader:
        assert "nonsense" in str(only(reader.read(file("a.dm3"))).problem)


def test_the_readers_are_never_imported_where_records_are_built(tmp_path: Path) -> None:
    source = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from nexus_tasks.builder.record import SessionToBuild, build_record
from nexus_tasks.builder.readers import FileReader
root = Path(sys.argv[1])
(root / "TEM").mkdir()
(root / "TEM" / "a.dm3").write_bytes(b"damaged")
session = SessionToBuild("s", "p", "n", Path("TEM"), datetime(2000, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC),
                         None, UTC)
with FileReader() as reader:
    assert build_record(session, data_root=root, preview_root=root / "p", reader=reader) is not None
print(sorted({name.partition(".")[0] for name in sys.modules} & {"rsciio", "numpy", "PIL", "dask", "h5py"}))
"""
    done = subprocess.run([sys.executable, "-c", source, str(tmp_path)], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "[]"
