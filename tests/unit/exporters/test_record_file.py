import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nexus_tasks.exporters.base import ExportContext, PermanentError, TransientError
from nexus_tasks.exporters.record_file import read_record, read_utf8_record


def test_a_record_is_read_as_it_is(context: ExportContext) -> None:
    assert read_utf8_record(context) == read_record(context) == context.xml_file_path.read_bytes()


def test_a_record_that_is_gone_is_named_and_looked_for_in_the_next_try(context: ExportContext, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"gone\.xml"):
        read_record(replace(context, xml_file_path=tmp_path / "gone.xml"))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("read", [read_record, read_utf8_record])
def test_a_passing_error_of_the_file_system_ends_no_delivery(
    context: ExportContext, monkeypatch: pytest.MonkeyPatch, read: Callable[[ExportContext], object], number: int
) -> None:
    def fail(_: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(TransientError, match=os.strerror(number)):
        read(context)


def test_a_record_in_another_encoding_is_refused(context: ExportContext) -> None:
    context.xml_file_path.write_bytes("<a>ü</a>".encode("utf-16"))
    with pytest.raises(PermanentError, match="not UTF-8"):
        read_utf8_record(context)
