"""What `nexus-tasks status` finds in an installation that lacks something, with real workers and beat."""

from signal import SIGTERM

import pytest

from nexus_tasks.monitoring.attention import attention
from nexus_tasks.sandbox.waiting import wait_until
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import Installation, new_session

DEADLINE = 30.0  # seconds


def test_what_is_missing_is_said_until_it_is_there(make_installation: InstallationMaker) -> None:
    installation = make_installation({})
    with installation.entered():
        session = new_session()
        installation.hand_over(session)
        assert found(installation) == ["queue"]
        command = installation.command("status")
        assert command.status == 0, command.errors
        assert command.output.startswith("! No worker runs")
        assert session in command.output

        worker = installation.start_worker("worker", concurrency=2)
        wait_until(lambda: found(installation) == ["beat"], DEADLINE, "the worker to be known, and no beat")
        installation.start_beat()
        wait_until(lambda: found(installation) == [], DEADLINE, "beat to be known")
        command = installation.command("status", "--check")
        assert (command.status, command.output.strip()) == (0, "Nothing needs attention."), command.errors
        installation.wait_until_settled(session)

        elsewhere = installation.start_worker(
            "elsewhere", concurrency=1, NX_RECORDS_PATH=str(installation.folder / "not mounted")
        )
        wait_until(lambda: found(installation) == ["folder"], DEADLINE, "the folder to be missed")
        command = installation.command("status", "--check", "--json")
        assert command.status == 1, command.errors
        [finding] = command.document["attention"]
        assert "elsewhere" in finding["message"]
        assert "NX_RECORDS_PATH" in finding["message"]

        for node in (elsewhere, worker):
            node.kill(SIGTERM)
        names = "SELECT name FROM worker"
        wait_until(lambda: not installation.rows(names), DEADLINE, "workers that end to take their rows away")


def test_a_worker_whose_broker_was_away_is_known_again(make_installation: InstallationMaker) -> None:
    installation = make_installation({})
    if installation.rabbitmq is not None:
        pytest.skip("one RabbitMQ serves all installations: it cannot be stopped for this one")
    installation.start_worker("worker", concurrency=1)
    names = "SELECT name FROM worker"
    wait_until(lambda: bool(installation.rows(names)), DEADLINE, "the worker to be known")
    installation.valkey.stop()
    wait_until(lambda: not installation.rows(names), DEADLINE, "a worker without a broker to be missed")
    installation.valkey.start()
    wait_until(lambda: bool(installation.rows(names)), DEADLINE, "the worker to be known again")


def found(installation: Installation) -> list[str]:
    return [finding.about for finding in attention(installation.deployment)]
