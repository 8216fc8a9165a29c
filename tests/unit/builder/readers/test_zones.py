"""A moment in a file is the same moment wherever the builder's machine thinks that it is."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.requirements import require_module

require_module("rsciio", "nexus-tasks[readers]")

from nexus_tasks.builder.readers import FileReader  # noqa: E402 after the requirement
from tests.unit.builder.readers.made_files import data_file, write_tvips, write_velox  # noqa: E402

TAKEN = datetime(2024, 7, 1, 10, tzinfo=UTC)
TOKYO = ZoneInfo("Asia/Tokyo")  # of the instrument
FILES: dict[str, Callable[[Path], Path]] = {
    "a_000.tvips": lambda path: write_tvips(path, int(TAKEN.timestamp())),
    "a.emd": lambda path: write_velox(path, {}, int(TAKEN.timestamp())),
}


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", None])
@pytest.mark.parametrize("name", FILES)
def test_the_zone_of_the_machine_changes_no_date(
    name: str, zone: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if zone is None:
        monkeypatch.delenv("TZ", raising=False)
    else:
        monkeypatch.setenv("TZ", zone)
    path = FILES[name](tmp_path / name)

    with FileReader() as reader:
        (dataset,) = reader.read(data_file(path), zone=TOKYO)

    assert (dataset.problem, dataset.acquired) == (None, TAKEN)
