"""Workers that are killed, and workers that are stopped and lose what they hold; and a beat that is killed."""

from tests.chaos.scenario import Havoc, Scenario
from tests.chaos.settings import LEASE_S, RUN_PATIENCE_S

KILLS = 25
STOPS_WITH_A_MESSAGE = 10
STOPS_PAST_THE_LEASE = 5


def kill_worker(havoc: Havoc) -> None:
    """SIGKILL to a worker and its children, whatever they do."""
    havoc.worker().kill()
    havoc.count()


def kill_beat(havoc: Havoc) -> None:
    """SIGKILL to a beat."""
    havoc.random.choice(havoc.installation.beats).kill()
    havoc.count()


def stop_with_a_message(havoc: Havoc) -> None:
    """A worker is stopped while it waits for messages, gets some, and is killed before it can note that it has them.

    The server hands a message to the stopped worker's socket: it is in no queue any more, and not marked as unacked.
    """
    worker = havoc.worker()
    worker.suspend()
    havoc.pause(0.3, 1.2)
    worker.kill()
    havoc.count()


def stop_past_the_lease(havoc: Havoc) -> None:
    """A worker is stopped until others have taken over its work, and then goes on as if nothing had been."""
    worker = havoc.worker()
    worker.suspend()
    havoc.pause(LEASE_S + 0.5, RUN_PATIENCE_S + 2)
    worker.resume()
    havoc.count()


SCENARIOS = (
    Scenario("workers-killed", lambda havoc: havoc.repeat(KILLS, lambda: kill_worker(havoc)), seconds=40),
    Scenario(
        "workers-stopped-with-message",
        lambda havoc: havoc.repeat(STOPS_WITH_A_MESSAGE, lambda: stop_with_a_message(havoc)),
    ),
    Scenario(
        "workers-stopped-past-lease",
        lambda havoc: havoc.repeat(STOPS_PAST_THE_LEASE, lambda: stop_past_the_lease(havoc)),
        seconds=30,
    ),
)
