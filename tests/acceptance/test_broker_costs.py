"""What a record costs the broker: messages, commands and connections, counted by Valkey."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import redis

from nexus_tasks.delivery.canvas import COLLECT
from nexus_tasks.sandbox.waiting import wait_until
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import Installation, new_session

RECORDS = 5
MESSAGES = 4  # of a record: three exports, finalize
MOST_COMMANDS = 92  # of a record, with those of Celery's scripts for chords: 81 to 87 seen; without our settings 130
# Sent all the time, however many records there are: by idle workers, as events twice a second, by this test
NOT_OF_RECORDS = {"brpop", "info", "zrange", "publish", "exists", "ping", "time"}


@pytest.fixture(scope="module")
def lab(make_installation: InstallationMaker) -> Iterator[Installation]:
    """Without beat, so that every message is one of a record."""
    installation = make_installation({})
    if installation.rabbitmq is not None:
        pytest.skip("counts what a Valkey does that is broker as well")
    installation.start_worker()
    with installation.entered():
        export(installation)  # whatever is done once is done
        yield installation


@pytest.fixture
def valkey(lab: Installation) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(lab.valkey.url) as client:
        yield client


def export(lab: Installation) -> None:
    """One record, to the end of its last task."""
    session = new_session()
    lab.hand_over(session)
    lab.wait_until_settled(session)
    with redis.Redis.from_url(lab.valkey.url) as client:
        wait_until(lambda: not client.exists("unacked", "exports"), 20, "finalize to end")


def commands_of(client: redis.Redis, action: Callable[[], None]) -> Counter[str]:
    """What Valkey was asked meanwhile, by command."""
    before = counted(client)
    action()
    return counted(client) - before


def counted(client: redis.Redis) -> Counter[str]:
    return Counter(
        {name.removeprefix("cmdstat_"): int(seen["calls"]) for name, seen in client.info("commandstats").items()}
    )


def export_some(lab: Installation) -> None:
    for _ in range(RECORDS):
        export(lab)


def test_a_record_takes_four_messages_and_few_commands(lab: Installation, valkey: redis.Redis) -> None:
    asked = commands_of(valkey, lambda: export_some(lab))

    assert asked["lpush"] == MESSAGES * RECORDS, asked
    of_records = {name: number for name, number in asked.items() if name not in NOT_OF_RECORDS}
    assert sum(of_records.values()) <= MOST_COMMANDS * RECORDS, asked


def test_no_result_is_stored(lab: Installation, valkey: redis.Redis) -> None:
    asked = commands_of(valkey, lambda: export(lab))

    assert asked["setex"] == 0, asked
    assert list(valkey.scan_iter("celery-task-meta-*")) == []


def test_publishing_keeps_its_connection(lab: Installation, valkey: redis.Redis) -> None:
    app = lab.deployment.app
    app.send_task(COLLECT, queue="nobody")
    before = valkey.info("stats")["total_connections_received"]

    def publish() -> None:
        for _ in range(50):
            app.send_task(COLLECT, queue="nobody")

    asked = commands_of(valkey, publish)

    assert valkey.info("stats")["total_connections_received"] == before
    assert asked["lpush"] == 50
