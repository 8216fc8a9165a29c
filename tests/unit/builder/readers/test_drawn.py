"""A preview that cannot be drawn costs nothing but itself."""

import errno
from typing import Any

import pytest

from nexus_tasks.builder.readers.layout import Layout
from tests.requirements import require_module

require_module("PIL", "nexus-tasks[readers]")

from nexus_tasks.builder.readers import storage  # noqa: E402 after the requirement
from nexus_tasks.builder.readers.base import DamagedFileError  # noqa: E402
from nexus_tasks.builder.readers.drawn import drawn  # noqa: E402

LAYOUT = Layout.from_rosettasciio([{"name": name} for name in "yx"], (2, 2), "")


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (MemoryError(), "they need more memory than reading a file may take"),
        (OSError("gone"), "OSError: gone"),
        (DamagedFileError("it is cut off"), "it is cut off"),
    ],
)
def test_what_goes_wrong_with_the_data_is_said(error: BaseException, problem: str) -> None:
    def load() -> Any:
        raise error

    assert drawn(load, LAYOUT) == (None, f"its data cannot be shown: {problem}")


def test_a_share_that_fails_under_the_data_is_noted() -> None:
    def load() -> Any:
        raise OSError(errno.EIO, "Input/output error")

    assert drawn(load, LAYOUT)[0] is None
    assert storage.has_failed()
