"""`status --check` and `prune` on an installation where nothing runs yet."""

import json

import psycopg

from tests.integration.cli.conftest import Run, done


def test_status_check_of_an_idle_installation_succeeds(run: Run) -> None:
    assert done(run("status", "--check")) == "Nothing needs attention.\n"
    assert json.loads(done(run("status", "--check", "--json"))) == {"attention": []}
    assert json.loads(done(run("status", "--json"))) == {"attention": [], "sessions": []}


def test_status_of_a_database_that_is_behind_says_so_and_fails(run: Run, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.execute("DROP TABLE worker")
    for arguments in (["status"], ["status", "--check"]):
        told = run(*arguments)
        assert told.exit_code == 1
        assert told.output.startswith("! The database is at revision 0001, this version needs ")
        assert "run `nexus-tasks db upgrade`" in told.output
    told = run("status", "--json")
    assert told.exit_code == 1
    assert [finding["about"] for finding in json.loads(told.output)["attention"]] == ["database"]


def test_prune_says_how_much(run: Run) -> None:
    assert done(run("prune")) == "Deleted: 0 closed runs with 0 attempts, 0 archived documents.\n"
    assert done(run("prune", "--dry-run")).startswith("Would be deleted: 0 closed runs")
    told = json.loads(done(run("prune", "--dry-run", "--json")))
    assert told == {"dry_run": True, "runs": 0, "attempts": 0, "documents": 0}
