import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests

from nexus_tasks.exporters.base import ConfigurationError, ExportContext, PermanentError
from nexus_tasks.exporters.cdcs.api import CdcsApi
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.title import record_title
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.services.standins import CDCS_TOKEN
from tests.integration.exporters.cdcs_site import cdcs_site, configure
from tests.integration.exporters.conftest import SESSION, Destination, again, of_session, rebuild, sha256

CREATE = "POST /rest/data/"
CHANGE = "PATCH /rest/data/{id}/"
READ = "GET /rest/data/{id}/"
GIVE = "PATCH /rest/data/{id}/change-owner/{id}"
USERS = "GET /rest/user/"
NEW_USER = "POST /rest/user/"
HEADERS = {"Authorization": f"Token {CDCS_TOKEN}"}


@pytest.fixture
def site(stand_ins: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Destination]:
    """A CDCS that we are an administrator of, and whose records belong to their users."""
    with cdcs_site(monkeypatch, administrator=True) as destination:
        configure(monkeypatch, NX_CDCS_USER_OWNED_RECORDS="yes")
        yield destination


def owners(site: Destination) -> list[str]:
    return [record["owner"] for record in site.objects]


def test_a_user_who_is_not_there_is_made(site: Destination, context: ExportContext) -> None:
    assert site.export(context).metadata["owner"] == {"user": "jsmith"}
    assert owners(site) == ["jsmith"]
    assert site.writing_calls == [CREATE, NEW_USER, GIVE]


def test_a_user_who_is_there_is_not_made(site: Destination, context: ExportContext) -> None:
    result = site.export(replace(context, user="admin"))
    assert result.metadata["owner"] == {"user": "admin"}
    assert owners(site) == ["admin"]
    assert site.writing_calls == [CREATE, GIVE]


def test_a_further_record_of_the_same_user_takes_two_calls(site: Destination, context: ExportContext) -> None:
    site.export(context)
    site.server.calls.reset()
    site.export(of_session(context, "another"))
    assert site.calls == [CREATE, GIVE]


def test_it_is_given_once(site: Destination, context: ExportContext) -> None:
    site.export(context)
    site.server.calls.reset()
    assert site.export(context).metadata["owner"] == {"user": "jsmith"}
    assert site.calls == []


def test_a_record_that_was_given_away_is_still_changed_in_place(site: Destination, context: ExportContext) -> None:
    site.export(context)
    rebuild(context)
    site.server.calls.reset()
    site.export(context)
    assert site.calls == [READ, CHANGE]
    assert [record["sha256"] for record in site.objects] == [sha256(context)]


def test_a_record_that_was_given_away_is_still_found(
    site: Destination, context: ExportContext, web: requests.Session
) -> None:
    number = site.export(context).record_id
    title = record_title(context)
    listed = web.get(f"{site.server.url}/rest/data/", params={"title": title}, headers=HEADERS)
    assert listed.json()["count"] == 0
    found = CdcsApi(site.server.url, CDCS_TOKEN, ShortMemory()).with_title(title)
    assert [str(record.number) for record in found] == [number]


@pytest.mark.parametrize("path", ["^/rest/user/$", "/change-owner/"])
@pytest.mark.parametrize("kind", [FaultKind.STATUS, FaultKind.RESET])
def test_a_gift_that_time_can_mend_is_tried_again(
    site: Destination, context: ExportContext, path: str, kind: FaultKind
) -> None:
    site.fail(context, Fault(kind, status=503, path=path, times=1))
    site.server.calls.reset()
    assert site.export(context).metadata["owner"] == {"user": "jsmith"}
    assert owners(site) == ["jsmith"]
    assert CREATE not in site.calls


@pytest.mark.parametrize("path", ["^/rest/user/$", "/change-owner/"])
def test_a_proxy_whose_cdcs_is_away_leaves_the_record_to_be_given_later(
    site: Destination, context: ExportContext, path: str
) -> None:
    site.server.faults.replace([Fault(FaultKind.STATUS, status=404, body="404 page not found", path=path, times=1)])
    with pytest.raises(ConfigurationError, match="check NX_CDCS_URL"):
        site.export(context)
    assert site.export(context).metadata["owner"] == {"user": "jsmith"}
    assert owners(site) == ["jsmith"]


def test_another_sessions_record_is_not_given_away(
    site: Destination, context: ExportContext, web: requests.Session
) -> None:
    number, other = site.export(context).record_id, of_session(context, "another")
    theirs = {"title": record_title(other), "xml_content": other.xml_file_path.read_text()}
    web.patch(f"{site.server.url}/rest/data/{number}/", json=theirs, headers=HEADERS)  # as after a restored backup
    with pytest.raises(PermanentError, match="another session's"):
        site.export(replace(context, user="mmuster"))
    assert owners(site) == ["jsmith"]


def test_what_a_curator_changed_stays_when_a_record_is_given_to_another_user(
    site: Destination, context: ExportContext, web: requests.Session
) -> None:
    number = site.export(context).record_id
    by_a_curator = context.xml_file_path.read_text().replace("first", "edited")
    web.patch(f"{site.server.url}/rest/data/{number}/", json={"xml_content": by_a_curator}, headers=HEADERS)
    site.export(replace(context, user="mmuster"))
    assert owners(site) == ["mmuster"]
    assert site.objects[0]["xml_content"] == by_a_curator


@pytest.mark.parametrize(("user", "problem"), [(None, "names no user"), (" ", "names no user"), ("J. Smith", "valid")])
def test_a_user_who_cannot_be_made_leaves_the_export_a_success(
    site: Destination, context: ExportContext, user: str | None, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = site.export(replace(context, user=user))
    assert "stays with the token's user" in caplog.text
    assert result.success
    assert problem in result.metadata["owner"]["problem"]
    assert owners(site) == ["nexuslims"]


def test_a_user_who_is_gone_is_made_again_by_the_next_export(site: Destination, context: ExportContext) -> None:
    site.export(context)
    site.server.reset()  # another CDCS is at the same address: neither the user nor the record is there
    other = of_session(context, "other")
    assert "Data or user not found" in site.export(other).metadata["owner"]["problem"]
    assert site.export(other).metadata["owner"] == {"user": "jsmith"}


def test_a_session_whose_user_was_corrected_gives_the_record_to_the_right_one(
    site: Destination, context: ExportContext
) -> None:
    site.export(context)
    assert site.export(replace(context, user="mmuster")).metadata["owner"] == {"user": "mmuster"}
    assert owners(site) == ["mmuster"]
    site.server.calls.reset()
    site.export(replace(context, user="mmuster"))
    assert site.calls == []


def test_a_record_that_is_made_again_is_given_again(
    site: Destination, context: ExportContext, web: requests.Session
) -> None:
    number = str(site.export(context).record_id)
    web.delete(f"{site.server.url}/rest/data/{number}/", headers=HEADERS)
    context.checkpoint.forget("record", number)  # as `retry --recreate` does
    site.export(context)
    assert owners(site) == ["jsmith"]


def test_two_workers_that_make_the_same_user_both_give_their_record(site: Destination, context: ExportContext) -> None:
    site.export(context)
    body = '{"username": ["A user with that username already exists."]}'
    faults = [
        Fault(FaultKind.STATUS, status=200, body="[]", method="GET", path="^/rest/user/$", times=1),
        Fault(FaultKind.STATUS, status=400, body=body, method="POST", path="^/rest/user/$", times=1),
    ]
    site.server.faults.replace(faults)
    other = Destination(type(site.plugin)(), site.server)
    assert other.export(of_session(context, "another")).metadata["owner"] == {"user": "jsmith"}


def test_without_an_administrators_token_the_export_is_a_success(
    cdcs: Destination, context: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, NX_CDCS_USER_OWNED_RECORDS="yes")
    result = cdcs.export(context)
    assert result.success
    assert "administrator's token as NX_CDCS_TOKEN" in result.metadata["owner"]["problem"]
    assert CDCS_TOKEN not in str(result.metadata)
    assert cdcs.writing_calls == [CREATE]


def test_unless_it_is_asked_for_records_stay_with_the_tokens_user(cdcs: Destination, context: ExportContext) -> None:
    assert "owner" not in cdcs.export(context).metadata
    assert [call for call in cdcs.calls if "user" in call or "owner" in call] == []


def test_nothing_of_a_gift_is_left_open_for_a_later_export_to_wait_for(
    site: Destination, context: ExportContext
) -> None:
    site.fail(context, Fault(FaultKind.RESET_AFTER, path="/change-owner/", times=1))
    assert context.checkpoint.get("owner") is None
    assert site.export(context).metadata["owner"] == {"user": "jsmith"}


def test_the_record_of_a_session_is_looked_up_by_its_administrator(site: Destination, context: ExportContext) -> None:
    number = site.export(context).record_id
    forgetful = again(context)
    site.fail(forgetful, Fault(FaultKind.STATUS, status=503, method="POST", path="^/rest/data/$", times=1))
    assert site.export(forgetful).record_id == number
    assert len(site.objects) == 1
    assert SESSION in site.objects[0]["xml_content"]
