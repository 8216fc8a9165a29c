"""CDCS tells the builder by which schema it judges records."""

from pathlib import Path

import pytest

from nexus_tasks.builder.deciding_schema import RecordJudge
from nexus_tasks.builder.schema import InvalidRecordError
from nexus_tasks.exporters.base import TransientError
from nexus_tasks.exporters.destinations.cdcs import CDCSDestination
from nexus_tasks.exporters.registry import Registry
from tests.integration.exporters.cdcs_site import XSD, cdcs_site
from tests.integration.exporters.conftest import record_xml

VALID = record_xml("session-1")
INVALID = b"<Experiment>\n<bad/></Experiment>"


def test_a_site_shows_the_schema_of_the_template_that_records_belong_to(
    stand_ins: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cdcs_site(monkeypatch, xsd=XSD):
        assert CDCSDestination().record_schema() == XSD


def test_a_site_that_does_not_show_an_xsd_cannot_say(stand_ins: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with cdcs_site(monkeypatch):
        assert CDCSDestination().record_schema() is None


def test_it_decides_about_the_records_of_the_builder(stand_ins: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with cdcs_site(monkeypatch, xsd=XSD) as destination:
        judge = RecordJudge(Registry((destination.plugin,)), None)
        judge.check(VALID)
        with pytest.raises(InvalidRecordError, match="the schema of cdcs: line 2: "):
            judge.check(INVALID)


def test_it_is_asked_once_for_many_records(stand_ins: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with cdcs_site(monkeypatch, xsd=XSD) as destination:
        judge = RecordJudge(Registry((destination.plugin,)), None)
        for _ in range(20):
            judge.check(VALID)
        assert len(destination.calls) == 2  # which template, and its schema


def test_a_site_that_is_away_leaves_the_decision_to_the_file_of_the_settings(
    stand_ins: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "schema.xsd"
    path.write_bytes(XSD)
    with cdcs_site(monkeypatch) as destination:
        destination.server.stop()
        with pytest.raises(TransientError):
            CDCSDestination().record_schema()
        RecordJudge(Registry((destination.plugin,)), path).check(VALID)
