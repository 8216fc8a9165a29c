"""PostgreSQL restored from a backup that knows nothing of the last fifty exports: nothing is doubled by it.

The installation is the test's own, for its database is replaced. The services keep what they have, and so does the
broker.
"""

from typing import Any

from nexus_tasks.sandbox.postgres import EmbeddedPostgres
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import Installation, new_session, record_xml
from tests.acceptance.test_repeated_exports import copies, once, writing_calls

EXPORTED_BEFORE = 2  # sessions that the backup knows as completed
WAITING = 40  # that it knows as handed over
UNKNOWN = 10  # that it does not know at all
DEADLINE = 60.0  # seconds


def test_after_restore_fifty_exports_that_the_backup_does_not_know_are_not_doubled(
    make_installation: InstallationMaker, postgres_server: EmbeddedPostgres
) -> None:
    installation = make_installation({})
    with installation.entered():
        completed = hand_over(installation, EXPORTED_BEFORE)
        export(installation, completed, "first")
        waiting = hand_over(installation, WAITING)
        backup = copy_of_database(installation, postgres_server)
        unknown = hand_over(installation, UNKNOWN)
        everything = [*completed, *waiting, *unknown]
        export(installation, everything, "second")
        there = holdings(installation)
        known = identifiers(installation)
        written = writing_calls(installation.stand_ins)
        assert all(copies(installation.stand_ins, each) == once(record_xml(each)) for each in everything)

        put_back(installation, postgres_server, backup)
        lost = installation.rows("SELECT 1 FROM session_log WHERE session_identifier = ANY(:names)", names=unknown)
        assert not lost, "the backup knows too much"
        states = "SELECT count(*) FROM delivery WHERE state = 'succeeded'"
        assert installation.rows(states) == [(3 * EXPORTED_BEFORE,)]
        command = installation.command("db", "after-restore")
        assert command.status == 0, command.errors
        assert str(3 * WAITING) in command.output
        for session in unknown:  # their builder finds them again
            installation.hand_over(session)
        export(installation, everything, "third")

        assert {session: installation.status(session) for session in everything} == dict.fromkeys(
            everything, "COMPLETED"
        )
        assert holdings(installation) == there
        assert writing_calls(installation.stand_ins) == written
        assert identifiers(installation) == known
        log = installation.rows("SELECT session_identifier, destination_name, success FROM upload_log")
        assert sorted(log) == sorted(
            (session, name, 1) for session in everything for name in ("cdcs", "elabftw", "labarchives")
        )


def hand_over(installation: Installation, count: int) -> list[str]:
    found = [new_session() for _ in range(count)]
    for session in found:
        installation.hand_over(session)
    return found


def export(installation: Installation, sessions: list[str], name: str) -> None:
    """By a worker and a beat that run only so long."""
    worker, beat = installation.start_worker(name, concurrency=2), installation.start_beat()
    try:
        installation.wait_until_settled(*sessions, seconds=DEADLINE)
    finally:
        beat.stop()
        installation.stop_worker(worker)


def copy_of_database(installation: Installation, server: EmbeddedPostgres) -> str:
    """The backup's name."""
    name = database_of(installation)
    installation.deployment.engine.dispose()  # PostgreSQL copies only what nobody is connected to
    server.create_database(f"{name}_backup", template=name)
    return f"{name}_backup"


def put_back(installation: Installation, server: EmbeddedPostgres, backup: str) -> None:
    name = database_of(installation)
    installation.deployment.engine.dispose()
    server.drop_database(name)
    server.create_database(name, template=backup)
    server.drop_database(backup)


def database_of(installation: Installation) -> str:
    return installation.environment["NX_DATABASE_URL"].rpartition("/")[2]


def holdings(installation: Installation) -> list[list[dict[str, Any]]]:
    """All that the services hold."""
    return [each.objects(content=True) for each in installation.stand_ins.servers]


def identifiers(installation: Installation) -> set[tuple[Any, ...]]:
    """Which object over there each delivery is."""
    return set(
        installation.rows(
            "SELECT session_identifier, destination, remote_record_id FROM delivery "
            "JOIN record ON record.id = record_id WHERE remote_record_id IS NOT NULL"
        )
    )
