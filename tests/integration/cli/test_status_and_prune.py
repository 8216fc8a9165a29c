"""`status --check` and `prune` on an installation where nothing runs yet."""

import json
from pathlib import Path

import psycopg
import pytest

from nexus_tasks.db import revisions
from tests.integration.cli.conftest import Run, done, refused


def test_status_check_of_an_idle_installation_succeeds(run: Run) -> None:
    assert done(run("status", "--check")) == "Nothing needs attention.\n"
    assert json.loads(done(run("status", "--check", "--json"))) == {"attention": []}
    assert json.loads(done(run("status", "--json"))) == {"attention": [], "sessions": []}


def test_status_of_a_database_that_is_behind_says_so_and_fails(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "known", lambda: ["0001", "0002"])  # a revision that is not written yet
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


def test_a_session_that_cannot_be_built_needs_attention_until_it_is_given_up(
    run: Run, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NX_INSTRUMENT_DATA_PATH", str(tmp_path))
    (tmp_path / "SEM").mkdir()
    done(run("instruments", "add", "SEM-1", "--folder", "SEM"))
    for session in ("s1", "s2"):
        times = ("--start", "2026-01-31T09:00", "--end", "2026-01-31T12:00")
        done(run("sessions", "add", session, "--instrument", "SEM-1", *times))
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO session_details VALUES ('s1', '{\"title\": 5}')")
    assert run("build").exit_code == 1

    told = run("status", "--check")
    assert told.exit_code == 1
    assert told.output.startswith("! 1 sessions could not be built (`nexus-tasks status --failed` lists them)")
    assert [finding["about"] for finding in json.loads(run("status", "--check", "--json").output)["attention"]] == [
        "build"
    ]
    assert _listed(run, "--failed") == ["s1"]
    assert _listed(run, "s2", "--failed") == []
    assert "no session s9" in refused(run("status", "s9", "--failed"))
    assert "No build of session s2 has failed" in refused(run("abandon", "s2"))

    done(run("abandon", "s1"))
    assert done(run("status", "--check")) == "Nothing needs attention.\n"
    assert _listed(run, "--failed") == []
    assert _listed(run) == ["s1", "s2"]
    assert "No build of session s1 has failed" in refused(run("abandon", "s1"))


def _listed(run: Run, *arguments: str) -> list[str]:
    document = json.loads(done(run("status", *arguments, "--json")))
    return [session["session_identifier"] for session in document["sessions"]]


def test_prune_says_how_much(run: Run) -> None:
    assert done(run("prune")) == "Deleted: 0 closed runs with 0 attempts, 0 archived documents.\n"
    assert done(run("prune", "--dry-run")).startswith("Would be deleted: 0 closed runs")
    told = json.loads(done(run("prune", "--dry-run", "--json")))
    assert told == {"dry_run": True, "runs": 0, "attempts": 0, "documents": 0}
