"""`nexus-tasks destinations --check`, and what a build says of a destination that takes nothing."""

from typing import Any

import pytest

from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.waiting import wait_until
from tests.acceptance.installation import END, INSTRUMENT, START, Finished, Installation, new_session, record_xml

THREE = {"cdcs", "elabftw", "labarchives"}


def check(installation: Installation, **settings: str) -> tuple[Finished, dict[str, dict[str, Any]]]:
    """The command, and its findings by destination and check."""
    finished = installation.command("destinations", "--check", "--json", **settings)
    return finished, {
        row["destination"]: {finding["name"]: finding for finding in row["checks"]}
        for row in finished.document["destinations"]
    }


def marks(found: dict[str, dict[str, Any]], destination: str) -> dict[str, Any]:
    return {name: finding["ok"] for name, finding in found[destination].items()}


def test_an_installation_that_is_well_has_only_good_marks(installation: Installation) -> None:
    finished, found = check(installation)
    assert finished.status == 0, finished.output
    for destination in THREE:
        assert set(marks(found, destination).values()) == {True}
        assert {"settings", "reachable", "authentication", "clock"} <= set(found[destination])
    assert "template" in found["cdcs"]
    assert "workspace" in found["cdcs"]
    assert "notebook" in found["labarchives"]


def test_a_check_changes_nothing_over_there(installation: Installation) -> None:
    before = [server.objects(content=True) for server in installation.stand_ins.servers]
    check(installation)
    assert [server.objects(content=True) for server in installation.stand_ins.servers] == before


@pytest.mark.parametrize(
    ("destination", "setting"),
    [
        ("cdcs", "NX_CDCS_TOKEN"),
        ("elabftw", "NX_ELABFTW_API_KEY"),
        ("labarchives", "NX_LABARCHIVES_ACCESS_PASSWORD"),
    ],
)
def test_wrong_credentials_are_named_and_the_others_stay_well(
    installation: Installation, destination: str, setting: str
) -> None:
    finished, found = check(installation, **{setting: "7-wrong-secret"})
    assert finished.status == 1
    refused = found[destination]["authentication"]
    assert refused["ok"] is False
    assert setting in refused["message"]
    assert "7-wrong-secret" not in finished.output + finished.errors
    for other in THREE - {destination}:
        assert set(marks(found, other).values()) == {True}


def test_a_service_that_is_away_is_asked_nothing_more(installation: Installation) -> None:
    installation.stand_ins.elabftw.faults.replace([Fault(FaultKind.STATUS, status=503)])
    finished, found = check(installation)
    assert finished.status == 1
    assert found["elabftw"]["reachable"]["ok"] is False
    assert {ok for name, ok in marks(found, "elabftw").items() if name not in {"settings", "reachable"}} == {None}


def test_people_see_a_table_with_what_to_do(installation: Installation) -> None:
    shown = installation.command("destinations", "--check", NX_CDCS_TEMPLATE_TITLE="No such template")
    assert shown.status == 1
    assert "✗" in shown.output
    assert "NX_CDCS_TEMPLATE_TITLE" in shown.output


def test_what_is_handed_over_while_a_destination_is_paused_goes_to_the_others_and_it_says_so(
    installation: Installation,
) -> None:
    session, record = new_session(), installation.folder / "record.xml"
    record.write_bytes(record_xml(session))
    times = ("--start", START.isoformat(), "--end", END.isoformat())
    assert installation.command("destinations", "pause", "labarchives").status == 0
    try:
        handed = installation.command("enqueue", record, "--session", session, "--instrument", INSTRUMENT, *times)
        assert handed.status == 0, handed.errors
        assert "labarchives takes no records, they wait for it: paused by an operator" in handed.errors
        others = {"cdcs": "succeeded", "elabftw": "succeeded", "labarchives": "pending"}
        wait_until(lambda: installation.delivered(session).deliveries == others, 30, "the others to hold it")
    finally:
        assert installation.command("destinations", "resume", "labarchives").status == 0
    installation.wait_until_settled(session)
    assert installation.status(session) == "COMPLETED"
