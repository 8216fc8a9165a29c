"""What `nexus-tasks status` imports: what it needs to ask the database and to show the answer."""

from pathlib import Path

import pytest

from tests.unit.cli.imported import imported_by

NOT_NEEDED = {"alembic", "celery", "kombu", "lxml", "numpy", "redis", "requests", "urllib3"}


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["status", "--check"]], ids=" ".join)
def test_status_needs_neither_celery_nor_what_builds_and_exports(
    arguments: list[str], database_url: str, tmp_path: Path
) -> None:
    imported = imported_by(arguments, cwd=tmp_path, environment={"NX_DATABASE_URL": database_url})
    assert "sqlalchemy" in imported
    assert imported & NOT_NEEDED == set()
    ours = {name for name in imported if name.startswith("nexus_tasks")}
    assert {name for name in ours if name.startswith(("nexus_tasks.builder", "nexus_tasks.sandbox"))} == set()
    assert {name for name in ours if name.endswith((".api", ".export"))} == set()


def test_the_destinations_are_listed_without_what_exports(database_url: str, tmp_path: Path) -> None:
    """Configured ones too: their settings are looked at, no service is called."""
    configured = {
        "NX_DATABASE_URL": database_url,
        "NX_CDCS_URL": "https://cdcs.example.org",
        "NX_CDCS_TOKEN": "t0ken",
        "NX_ARCHIVE_URL": tmp_path.as_uri(),
    }
    imported = imported_by(["status"], cwd=tmp_path, environment=configured)
    assert imported & NOT_NEEDED == set()
