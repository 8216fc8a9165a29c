"""A worker whose pool is threads: `celery -A nexus_tasks worker --pool threads --concurrency 16`."""

from collections import Counter
from collections.abc import Iterator
from signal import SIGTERM

import psutil
import pytest
import redis

from nexus_tasks.sandbox.services.client import calls, objects
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.waiting import wait_until
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import Installation, new_session

THREADS = 16
RECORDS = 8
SLOW_S = 8.0  # long enough for a signal to find every call at work
EVERYWHERE = dict.fromkeys(("cdcs", "elabftw", "labarchives"), "succeeded")


@pytest.fixture(scope="module")
def lab(make_installation: InstallationMaker) -> Iterator[Installation]:
    installation = make_installation({"NX_CALL_DEADLINE": "20"})
    start_worker(installation)
    installation.start_beat()
    with installation.entered():
        yield installation


def start_worker(installation: Installation) -> None:
    installation.start_worker(pool="threads", concurrency=THREADS)


def stop_gently(lab: Installation) -> None:
    """SIGTERM to the worker, which ends well and leaves no message that it has taken."""
    process = lab.workers[-1].container.process
    process.send_signal(SIGTERM)
    assert process.wait(30) == 0
    with redis.Redis.from_url(lab.valkey.url) as broker:
        assert broker.hlen("unacked") == 0, "a message was neither acknowledged nor given back"


def assert_everything_arrived_once(lab: Installation, sessions: list[str]) -> None:
    assert Counter(lab.status(session) for session in sessions) == {"COMPLETED": len(sessions)}
    assert [lab.delivered(session).deliveries for session in sessions] == [EVERYWHERE] * len(sessions)
    for service in (lab.stand_ins.cdcs, lab.stand_ins.elabftw):
        assert len(objects(service.url)) == len(sessions)
    kinds = Counter(found["kind"] for found in objects(lab.stand_ins.labarchives.url))
    assert kinds["page"] == len(sessions)


def test_records_reach_all_three_destinations_from_one_process(lab: Installation) -> None:
    lab.stand_ins.reset()
    sessions = [new_session() for _ in range(RECORDS)]
    for session in sessions:
        lab.hand_over(session)
    lab.wait_until_settled(*sessions, seconds=90)

    assert_everything_arrived_once(lab, sessions)
    assert psutil.Process(lab.workers[-1].container.process.pid).children() == []


def test_sigterm_waits_for_the_calls_of_all_threads_and_loses_nothing(lab: Installation) -> None:
    lab.stand_ins.reset()
    cdcs = lab.stand_ins.cdcs
    cdcs.faults.replace([Fault(FaultKind.LATENCY, seconds=SLOW_S, method="POST")])
    sessions = [new_session() for _ in range(6)]
    stop_gently(lab)
    for session in sessions:
        lab.hand_over(session)
    start_worker(lab)  # finds all of them, so that their calls begin together
    wait_until(lambda: calls(cdcs.url)["in_progress"] == len(sessions), 20, "a call for every session")

    stop_gently(lab)

    assert calls(cdcs.url)["in_progress"] == 0
    assert {lab.delivered(session).deliveries["cdcs"] for session in sessions} == {"succeeded"}

    cdcs.faults.replace([])
    start_worker(lab)
    lab.wait_until_settled(*sessions, seconds=60)
    assert_everything_arrived_once(lab, sessions)
