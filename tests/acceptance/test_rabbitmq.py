"""RabbitMQ in the place of Redis, by its address alone. `NX_TEST_BROKER=rabbitmq` runs all acceptance tests with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from nexus_tasks.broker import queue_lengths
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.ports import free_port
from nexus_tasks.sandbox.services.client import objects
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.services.standins import StandIns
from nexus_tasks.sandbox.waiting import wait_until
from tests.acceptance.installation import Installation, new_session, record_xml, the_only_line
from tests.acceptance.rabbitmq import RabbitMq
from tests.timing import fastest

ANSWER_TIME_MS = 3000  # how long this RabbitMQ waits for a message to be acknowledged; half an hour where not told
SLOW_S = 7.0
EVERYWHERE = dict.fromkeys(("cdcs", "elabftw", "labarchives"), "succeeded")


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    """One that may be killed, and soon loses its patience with a worker."""
    impatient = {"consumer_timeout": ANSWER_TIME_MS, "channel_tick_interval": 500}
    folder = tmp_path_factory.mktemp("rabbitmq")
    with Lifeline(folder), RabbitMq(folder, parameters=impatient) as server:
        yield server


@pytest.fixture(scope="module")
def lab(
    rabbitmq: RabbitMq,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: object,
    database_template: str,
    database_names: Iterator[str],
) -> Iterator[Installation]:
    from nexus_tasks.sandbox.postgres import EmbeddedPostgres

    assert isinstance(postgres_server, EmbeddedPostgres)
    url = postgres_server.create_database(next(database_names), template=database_template)
    stand_ins = StandIns.start()
    made = Installation(
        tmp_path_factory.mktemp("with_rabbitmq"),
        url,
        stand_ins,
        {"NX_CALL_DEADLINE": "20", "NX_RUN_PATIENCE": "4"},
        rabbitmq,
    )
    made.start_worker()
    made.start_beat()
    with made.entered():
        yield made
    made.stop()
    stand_ins.stop()


def test_a_record_goes_through_all_three_services(lab: Installation) -> None:
    session = new_session()
    lab.hand_over(session)
    lab.wait_until_settled(session)

    assert lab.delivered(session).deliveries == EVERYWHERE
    assert lab.status(session) == "COMPLETED"


def test_a_broker_that_is_killed_under_way_loses_and_doubles_nothing(lab: Installation, rabbitmq: RabbitMq) -> None:
    lab.stand_ins.reset()
    lab.stand_ins.cdcs.faults.replace([Fault(FaultKind.LATENCY, seconds=0.5, method="POST")])
    sessions = [new_session() for _ in range(6)]
    for session in sessions:
        lab.hand_over(session)
    wait_until(lambda: len(objects(lab.stand_ins.cdcs.url)) > 0, 20, "the first record")

    rabbitmq.kill()
    rabbitmq.start()

    lab.wait_until_settled(*sessions, seconds=60)
    lab.stand_ins.cdcs.faults.replace([])
    assert {lab.status(session) for session in sessions} == {"COMPLETED"}
    assert [lab.delivered(session).deliveries for session in sessions] == [EVERYWHERE] * len(sessions)
    for service in (lab.stand_ins.cdcs, lab.stand_ins.elabftw):
        assert len(objects(service.url)) == len(sessions)


def test_what_takes_longer_than_rabbitmq_waits_is_sent_once_and_the_worker_goes_on(lab: Installation) -> None:
    lab.stand_ins.reset()
    lab.stand_ins.cdcs.faults.replace([Fault(FaultKind.LATENCY, seconds=SLOW_S, method="POST", times=1)])
    slow, next_one = new_session(), new_session()
    lab.hand_over(slow)
    lab.wait_until_settled(slow, seconds=40)

    assert "PRECONDITION_FAILED" in lab.workers[0].container.process.logs(), "RabbitMQ was patient"
    lab.hand_over(next_one)
    lab.wait_until_settled(next_one)
    assert {lab.status(slow), lab.status(next_one)} == {"COMPLETED"}
    assert len(objects(lab.stand_ins.cdcs.url)) == 2


def test_without_rabbitmq_a_record_waits_in_the_database(lab: Installation, tmp_path: Path) -> None:
    session, record = new_session(), tmp_path / "record.xml"
    record.write_bytes(record_xml(session))
    nowhere = f"amqp://nexus:hidden-password@127.0.0.1:{free_port()}//"
    options = ("--session", session, "--instrument", "x", "--start", "2026-03-02T09:00Z", "--end", "2026-03-02T10:00Z")
    with lab.frozen_worker():
        told = the_only_line(lab.command("enqueue", record, *options, NX_BROKER_URL=nowhere))
        assert "NX_BROKER_URL" in told
        assert "hidden-password" not in told

    lab.wait_until_settled(session)
    assert lab.status(session) == "COMPLETED"


def test_a_publisher_gives_up_within_a_second_while_rabbitmq_is_away(lab: Installation, rabbitmq: RabbitMq) -> None:
    assert queue_lengths(lab.deployment.app, ["export.cdcs"]) == {"export.cdcs": 0}
    rabbitmq.kill()
    try:

        def publish() -> None:
            with pytest.raises(OperationalError):
                lab.deployment.app.send_task("nobody", queue="nobody")

        assert fastest(publish, enough=1) < 1
        assert queue_lengths(lab.deployment.app, ["export.cdcs"]) == {"export.cdcs": 1}, (
            "what is not known may hold a message"
        )
    finally:
        rabbitmq.start()


def test_the_length_of_a_queue_is_what_waits_in_it(lab: Installation) -> None:
    app = lab.deployment.app
    for _ in range(3):
        app.send_task("nobody", queue="unread")
    assert queue_lengths(app, ["no-such-queue", "unread"]) == {"no-such-queue": 0, "unread": 3}
