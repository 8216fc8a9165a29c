"""CDCS sites that differ: one that validates, one that calls a document `content`."""

from collections.abc import Iterator

import pytest

from nexus_tasks.exporters.base import ExportContext, PermanentError
from tests.integration.exporters.cdcs_site import XSD, cdcs_site, configure
from tests.integration.exporters.conftest import Destination, again, fault, of_session, rebuild, sha256

CREATE = "POST /rest/data/"
CHANGE = "PATCH /rest/data/{id}/"


@pytest.fixture
def validating(stand_ins: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Destination]:
    with cdcs_site(monkeypatch, xsd=XSD) as destination:
        yield destination


@pytest.fixture
def renamed(stand_ins: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Destination]:
    """A site whose documents are `content`, as core-main-app does without its backward compatibility."""
    with cdcs_site(monkeypatch, document_field="content") as destination:
        yield destination


def test_a_valid_record_is_made_and_a_further_one_takes_one_call(
    validating: Destination, context: ExportContext
) -> None:
    validating.export(context)
    validating.server.calls.reset()
    validating.export(of_session(context, "another"))
    assert validating.calls == [CREATE]


def test_a_record_that_is_not_valid_is_not_sent(validating: Destination, context: ExportContext) -> None:
    context.xml_file_path.write_bytes(b"<Experiment>\n<id>x</id>\n<bad/></Experiment>")
    with pytest.raises(PermanentError, match=r"line 3: Element 'bad': This element is not expected"):
        validating.export(context)
    assert validating.writing_calls == []


def test_a_change_that_is_not_valid_is_not_sent(validating: Destination, context: ExportContext) -> None:
    validating.export(context)
    before = sha256(context)
    context.xml_file_path.write_bytes(b"<Experiment/>")
    with pytest.raises(PermanentError, match="line 1: Element 'Experiment': Missing child"):
        validating.export(context)
    assert validating.writing_calls == [CREATE]
    assert [record["sha256"] for record in validating.objects] == [before]


def test_records_reach_a_site_that_calls_a_document_content(renamed: Destination, context: ExportContext) -> None:
    renamed.export(context)
    renamed.server.calls.reset()
    renamed.export(of_session(context, "another"))
    assert renamed.calls == [CREATE]
    assert renamed.objects[0]["sha256"] == sha256(context)


def test_such_a_site_does_not_pass_a_change_over(renamed: Destination, context: ExportContext) -> None:
    renamed.export(context)
    rebuild(context)
    other_worker = Destination(type(renamed.plugin)(), renamed.server)
    other_worker.export(context)
    assert [record["sha256"] for record in renamed.objects] == [sha256(context)]
    assert renamed.writing_calls[-2:] == [CHANGE, CHANGE]  # the first was answered with 200, and changed nothing


def test_a_record_is_found_at_such_a_site(renamed: Destination, context: ExportContext) -> None:
    number = renamed.export(context).record_id
    forgetful = again(context)
    renamed.fail(forgetful, fault("503 before saving", "POST", "^/rest/data/$"))
    assert renamed.export(forgetful).record_id == number


def test_a_record_without_a_workspace_is_found_changed_and_seen_by_its_owner_only(
    cdcs: Destination, context: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, NX_CDCS_ASSIGN_TO_PUBLIC_WORKSPACE="no")
    cdcs.fail(context, fault("504 after saving", "POST", "^/rest/data/$"))
    rebuild(context)
    assert cdcs.export(context).metadata["done"] == "updated"
    assert [(record["workspace"], record["sha256"]) for record in cdcs.objects] == [(None, sha256(context))]
