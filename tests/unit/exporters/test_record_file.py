from dataclasses import replace
from pathlib import Path

import pytest

from nexus_tasks.exporters.base import ExportContext, PermanentError
from nexus_tasks.exporters.record_file import read_record, read_record_text


def test_a_record_is_read_as_it_is(context: ExportContext) -> None:
    assert read_record_text(context).encode() == read_record(context) == context.xml_file_path.read_bytes()


def test_a_record_that_is_gone_is_named(context: ExportContext, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"gone\.xml"):
        read_record(replace(context, xml_file_path=tmp_path / "gone.xml"))


def test_a_record_in_another_encoding_is_refused(context: ExportContext) -> None:
    context.xml_file_path.write_bytes("<a>ü</a>".encode("utf-16"))
    with pytest.raises(PermanentError, match="not UTF-8"):
        read_record_text(context)
