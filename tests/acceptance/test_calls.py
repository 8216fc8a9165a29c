"""What the services see of the workers: how many calls and connections, and how close to each other."""

from collections import Counter
from itertools import pairwise

import pytest

from nexus_tasks.sandbox.services.server import StandInServer
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import Installation, new_session

STEADY_RECORDS = 50
CALLS_OF_A_RECORD = {"CDCS": 1, "eLabFTW": 2, "LabArchives": 3}
STEADY_WAVES = 2  # in a row, of twelve records each: by then every process has had each kind of task
WAVE = 12
MOST_WAVES = 25
PACED_RECORDS = 12
PROCESSES = 4  # of one worker
INTERVAL = 0.05  # seconds


def export(installation: Installation, count: int) -> None:
    """So many records at once, until all three hold them."""
    with installation.entered():
        sessions = [new_session() for _ in range(count)]
        for session in sessions:
            installation.hand_over(session)
    installation.wait_until_settled(*sessions, seconds=120)
    assert {installation.status(session) for session in sessions} == {"COMPLETED"}


def counted(installation: Installation, what: str) -> Counter[str]:
    """The calls (`total`) or the connections that each service has had."""
    servers = installation.stand_ins.servers
    return Counter({server.service.name: int(server.calls.as_json()[what]) for server in servers})


def starts(server: StandInServer) -> list[float]:
    return [call["started"] for call in server.calls.as_json()["recent"]]


def with_workers(make_installation: InstallationMaker, **settings: str) -> Installation:
    installation = make_installation(settings)
    installation.start_worker(concurrency=PROCESSES)
    installation.start_beat()
    return installation


def warm_up(installation: Installation) -> None:
    """Until every process knows templates, folders and versions."""
    steady = 0
    for _ in range(MOST_WAVES):
        before = counted(installation, "total")
        export(installation, WAVE)
        asked = counted(installation, "total") - before
        steady = steady + 1 if asked == {name: WAVE * calls for name, calls in CALLS_OF_A_RECORD.items()} else 0
        if steady == STEADY_WAVES:
            return
    pytest.fail("the number of calls does not become steady")


def test_fifty_records_take_three_hundred_calls_and_no_new_connection(make_installation: InstallationMaker) -> None:
    installation = with_workers(make_installation)
    warm_up(installation)
    calls, connections = counted(installation, "total"), counted(installation, "connections")
    export(installation, STEADY_RECORDS)
    assert counted(installation, "total") - calls == {
        name: STEADY_RECORDS * calls for name, calls in CALLS_OF_A_RECORD.items()
    }
    assert counted(installation, "connections") == connections
    assert max(connections.values()) <= PROCESSES


def test_labarchives_gets_its_calls_one_after_the_other(make_installation: InstallationMaker) -> None:
    installation = with_workers(make_installation)
    export(installation, PACED_RECORDS)
    calls = installation.stand_ins.labarchives.calls.as_json()
    assert calls["total"] >= PACED_RECORDS * CALLS_OF_A_RECORD["LabArchives"]
    assert calls["max_concurrent"] == 1


def test_with_an_interval_no_two_calls_are_closer_however_many_records_are_under_way(
    make_installation: InstallationMaker,
) -> None:
    installation = with_workers(make_installation, NX_WINDOWS="labarchives=8", NX_INTERVALS=f"labarchives={INTERVAL}")
    export(installation, PACED_RECORDS)
    moments = starts(installation.stand_ins.labarchives)
    assert len(moments) >= PACED_RECORDS * CALLS_OF_A_RECORD["LabArchives"]
    assert min(later - earlier for earlier, later in pairwise(moments)) >= INTERVAL
