"""Which files look like data."""

import importlib.util
import subprocess
import sys

import pytest

from nexus_tasks.builder.readers.extensions import KNOWN_EXTENSIONS, is_known


@pytest.mark.skipif(importlib.util.find_spec("rsciio") is None, reason="the readers are not installed")
def test_everything_that_rosettasciio_reads_is_known() -> None:
    """Asked in another process: RosettaSciIO is GPL-3."""
    asked = "import rsciio; print(*{e.lower() for p in rsciio.IO_PLUGINS for e in p['file_extensions']})"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    assert len(told.stdout.split()) > 50
    assert set(told.stdout.split()) <= KNOWN_EXTENSIONS


@pytest.mark.parametrize("name", ["a.dm3", "A.TIF", "scan.tar.emd", "notes.txt", "screen.PNG", "map.hdr", "frames.raw"])
def test_data_are_known_by_their_extension(name: str) -> None:
    assert is_known(name)


@pytest.mark.parametrize("name", ["dm3", "setup.exe", "noise", "a.", "a.dm3.bak", "driver.dll"])
def test_other_files_are_not(name: str) -> None:
    assert not is_known(name)
