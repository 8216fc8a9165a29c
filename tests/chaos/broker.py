"""A broker that forgets, and one that dies."""

import redis

from tests.chaos.scenario import Havoc, Scenario

FLUSHES = 5
KILLS = 6


def flush(havoc: Havoc) -> None:
    """FLUSHALL: every message and every result is gone."""
    with redis.Redis.from_url(havoc.installation.sandbox.valkey.url) as server:
        server.flushall()
    havoc.count()


def kill_broker(havoc: Havoc) -> None:
    """SIGKILL, and a start with the data it had."""
    valkey = havoc.installation.sandbox.valkey
    valkey.kill()
    havoc.pause(0.2, 2)
    valkey.start()
    havoc.count()


SCENARIOS = (
    Scenario("broker-flushed", lambda havoc: havoc.repeat(FLUSHES, lambda: flush(havoc))),
    Scenario("broker-killed", lambda havoc: havoc.repeat(KILLS, lambda: kill_broker(havoc)), workers_may_end=True),
)
