from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nexus_tasks.sandbox.managed_process import ManagedProcess


@pytest.fixture
def started(tmp_path: Path) -> "Iterator[ManagedProcess]":
    """A program with a child, running."""
    from tests.unit.sandbox.parent import parent

    with parent(tmp_path) as process:
        yield process
