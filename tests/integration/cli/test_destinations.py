"""`nexus-tasks destinations` and what commands say of one that takes no part, or nothing."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from nexus_tasks.builder.record_xml import RecordContent, write_record
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.registry import get_registry
from tests.integration.cli.conftest import Run, done

MISSING = "NX_CDCS_TOKEN is missing: CDCS needs NX_CDCS_URL and NX_CDCS_TOKEN."


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One destination that works."""
    get_registry.cache_clear()
    folder = tmp_path / "archive"
    folder.mkdir()
    monkeypatch.setenv("NX_ARCHIVE_URL", folder.as_uri())


@pytest.fixture
def half_of_cdcs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NX_CDCS_URL", "https://cdcs.example.org")


def row(output: str) -> dict[str, Any]:
    return {each["destination"]: each for each in json.loads(output)["destinations"]}


def test_destinations_without_any_setting_are_no_problem(run: Run) -> None:
    for command in (("destinations",), ("destinations", "--check")):
        done(run(*command))
    assert done(run("status", "--check")) == "Nothing needs attention.\n"


def test_a_secret_without_an_address_is_no_problem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deployments give all secrets to all processes; a destination is switched off by its address."""
    monkeypatch.setenv("NX_CDCS_TOKEN", "secret")
    for command in (("destinations",), ("destinations", "--check")):
        done(run(*command))


@pytest.mark.usefixtures("half_of_cdcs")
def test_a_destination_with_half_of_its_settings_is_a_problem(run: Run) -> None:
    told = run("destinations")
    assert told.exit_code == 1
    assert "incomplete" in told.output

    found = row(run("destinations", "--json").output)
    assert {name for name, each in found.items() if each["half_configured"]} == {"cdcs"}
    assert found["cdcs"]["reason"] == MISSING


@pytest.mark.usefixtures("half_of_cdcs")
def test_a_check_names_the_setting_that_is_missing(run: Run) -> None:
    told = run("destinations", "--check", "--json")
    assert told.exit_code == 1
    found = row(told.output)
    assert found["cdcs"]["checks"] == [{"name": "settings", "ok": False, "message": MISSING}]
    assert all(finding["ok"] for finding in found["archive"]["checks"])


@pytest.mark.usefixtures("half_of_cdcs")
def test_a_destination_with_half_of_its_settings_needs_attention(run: Run) -> None:
    told = run("status", "--check")
    assert told.exit_code == 1
    assert told.output == f"! cdcs takes no part, records go out without it: {MISSING}\n"


PAUSED = "archive takes no records, they wait for it: paused by an operator\n"
START = datetime(2026, 3, 2, 15, tzinfo=UTC)


@pytest.fixture
def enqueue(tmp_path: Path) -> tuple[str | Path, ...]:
    record = tmp_path / "record.xml"
    record.write_bytes(write_record(RecordContent("s1", "SEM-1", "SEM", "A record", "ann", START, START, ())))
    times = ("--start", START.isoformat(), "--end", START.isoformat())
    return ("enqueue", record, "--session", "s1", "--instrument", "SEM-1", *times)


def test_a_retry_says_which_destination_takes_nothing(
    run: Run, enqueue: tuple[str | Path, ...], database_url: str
) -> None:
    done(run("destinations", "pause", "archive"))
    done(run(*enqueue))
    assert done(run("retry", "s1")) == "There is nothing to retry.\n"
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE delivery SET state = 'retrying', next_attempt_at = now()")
    assert done(run("retry", "s1")) == f"1 deliveries are due now.\n{PAUSED}"


def test_a_backfill_says_which_destination_takes_nothing(
    run: Run, enqueue: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setenv("NX_ARCHIVE_URL", "")
        assert "No destination is enabled" in run(*enqueue).output
    get_settings.cache_clear()
    done(run("destinations", "pause", "archive"))
    assert done(run("destinations", "backfill", "archive")) == f"1 records go to archive.\n{PAUSED}"
