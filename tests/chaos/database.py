"""A database that dies."""

from tests.chaos.scenario import Havoc, Scenario

KILLS = 5


def kill_database(havoc: Havoc) -> None:
    """SIGKILL to PostgreSQL and its children, and a start with recovery from its log."""
    postgres = havoc.installation.sandbox.postgres
    postgres.kill()
    havoc.pause(0.2, 2)
    postgres.start()
    havoc.count()


SCENARIOS = (Scenario("database-killed", lambda havoc: havoc.repeat(KILLS, lambda: kill_database(havoc))),)
