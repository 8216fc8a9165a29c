from collections.abc import Iterator

import pytest

from nexus_tasks.exporters.checkup import check_up
from nexus_tasks.sandbox.services.cdcs.site import CORE_VERSION
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from tests.integration.exporters.cdcs_site import XSD, cdcs_site, configure
from tests.integration.exporters.conftest import Destination


@pytest.fixture
def site(stand_ins: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Destination]:
    with cdcs_site(monkeypatch, xsd=XSD) as destination:
        yield destination


@pytest.fixture
def ours(stand_ins: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Destination]:
    """A CDCS that we are an administrator of."""
    with cdcs_site(monkeypatch, administrator=True) as destination:
        configure(monkeypatch, NX_CDCS_USER_OWNED_RECORDS="yes")
        yield destination


def found(destination: Destination) -> dict[str, str]:
    """What the checks say, by name; a sign for how they ended comes first."""
    signs = {True: "✓", False: "✗", None: "-"}
    return {finding.name: f"{signs[finding.ok]} {finding.message}" for finding in check_up(destination.plugin)}


def test_all_is_well(site: Destination) -> None:
    all_found = found(site)
    assert " ".join(all_found) == "settings reachable authentication template schema workspace clock"
    assert {message[0] for message in all_found.values()} == {"✓"}
    assert all_found["authentication"].endswith(f"core-main-app {CORE_VERSION}")
    assert all_found["template"] == "✓ 'Nexus Experiment Schema', current version 41"
    assert all_found["schema"].startswith("✓ can be compiled, hash ")
    assert all_found["workspace"].startswith("✓ 'Global Public Workspace', id 8; whether the token's user may publish")
    assert all_found["clock"].endswith(" s apart")


def test_nothing_is_changed(site: Destination) -> None:
    found(site)
    assert site.writing_calls == []
    assert site.objects == []


def test_a_server_that_is_down_is_the_only_finding(site: Destination) -> None:
    site.server.stop()
    try:
        all_found = found(site)
    finally:
        site.server.start()
    assert all_found["reachable"].startswith("✗ CDCS refused the connection")
    assert {message[0] for name, message in all_found.items() if name not in {"settings", "reachable"}} == {"-"}


def test_another_site_at_the_address_is_named(site: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, NX_CDCS_URL=f"{site.server.url}/elsewhere")
    assert "check NX_CDCS_URL" in found(site)["reachable"]


@pytest.mark.parametrize("status", [301, 500, 503])
def test_an_answer_that_is_none_is_not_called_reachable(site: Destination, status: int) -> None:
    site.server.faults.replace([Fault(FaultKind.STATUS, status=status)])
    assert found(site)["reachable"].startswith("✗ ")


def test_a_wrong_token_is_told_apart_from_a_server_that_is_down(
    site: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, NX_CDCS_TOKEN="wrong-token")
    all_found = found(site)
    assert all_found["reachable"][0] == "✓"
    assert "check NX_CDCS_TOKEN" in all_found["authentication"]
    assert all_found["template"] == "- not looked at: authentication comes first"
    assert "wrong-token" not in str(all_found)


def test_titles_that_are_not_there_name_their_setting(site: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, NX_CDCS_TEMPLATE_TITLE="Other", NX_CDCS_WORKSPACE_TITLE="Another")
    all_found = found(site)
    assert all_found["template"].startswith("✗ CDCS has no template titled 'Other'")
    assert all_found["workspace"].startswith("✗ CDCS shows us no workspace titled 'Another'")
    assert all_found["clock"][0] == "✓"


def test_a_schema_that_cannot_be_compiled_is_told_but_stops_nothing(site: Destination) -> None:
    template = '{"content": "<xs:schema/>", "hash": "1", "format": "XSD"}'
    site.server.faults.replace([Fault(FaultKind.STATUS, status=200, body=template, path="^/rest/template/")])
    assert found(site)["schema"].startswith("✓ cannot be compiled here, CDCS alone validates the records (")
    site.server.faults.replace([])


def test_a_template_that_is_no_xml_schema_is_told(cdcs: Destination) -> None:
    assert found(cdcs)["schema"] == "✓ no XML schema: CDCS alone validates the records"


def test_no_workspace_is_looked_at_when_none_is_wanted(site: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, NX_CDCS_ASSIGN_TO_PUBLIC_WORKSPACE="no")
    assert "workspace" not in found(site)


def test_a_private_workspace_without_the_right_to_write_is_told(site: Destination) -> None:
    private = '[{"id": 9, "title": "Global Public Workspace", "owner": "1", "is_public": false}]'
    asked = Fault(FaultKind.STATUS, status=200, body=private, path="/read_access")
    site.server.faults.replace([asked])
    assert found(site)["workspace"].startswith("✗ The token's user may not write to the workspace")
    site.server.faults.replace([asked, Fault(FaultKind.STATUS, status=200, body=private, path="/write_access")])
    assert found(site)["workspace"] == "✓ 'Global Public Workspace', id 9, open for writing"


def test_an_administrators_token_may_publish_and_give_records_away(ours: Destination) -> None:
    all_found = found(ours)
    assert all_found["workspace"].endswith("open to administrators")
    assert all_found["ownership"] == "✓ the token may give records to their users"


def test_a_token_that_may_not_give_records_away_is_told(site: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, NX_CDCS_USER_OWNED_RECORDS="yes")
    assert (
        "an administrator's token as NX_CDCS_TOKEN, or set NX_CDCS_USER_OWNED_RECORDS to no" in found(site)["ownership"]
    )


def test_staff_who_could_not_change_a_record_any_more_are_told(ours: Destination) -> None:
    ours.server.faults.replace([Fault(FaultKind.STATUS, status=403, path="^/rest/admin/data/")])
    assert "is no superuser" in found(ours)["ownership"]


def test_ownership_is_looked_at_only_where_it_is_wanted(site: Destination) -> None:
    assert "ownership" not in found(site)
    assert [call for call in site.calls if "/user/" in call] == []


@pytest.mark.parametrize(("ahead", "words"), [(120, "ahead of ours"), (-120, "behind ours")])
def test_a_clock_that_is_wrong_is_told(
    stand_ins: object, monkeypatch: pytest.MonkeyPatch, ahead: float, words: str
) -> None:
    with cdcs_site(monkeypatch, clock_ahead=ahead) as destination:
        clock = found(destination)["clock"]
    assert clock[0] == "✗"
    assert words in clock
