"""What a scientist sees: the links of a record's deliveries, opened in a real browser."""

import re
import subprocess
from pathlib import Path

import pytest

from nexus_tasks.monitoring.status import view
from tests.acceptance.installation import Installation, new_session
from tests.requirements import require_program

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MARK = "marked-by-a-script"
SCRIPT = f"<script>document.documentElement.setAttribute('data-x', '{MARK}')</script>"


def page(url: str, profile: Path) -> str:
    """The document as it is after the browser has run what is in it."""
    command = [require_program("chromium"), *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=3000"]
    shown = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=60, check=True)
    return shown.stdout


@pytest.mark.parametrize("destination", ["cdcs", "elabftw", "labarchives"])
def test_the_link_of_a_delivery_opens_the_record_and_runs_nothing_that_a_lab_wrote(
    installation: Installation, destination: str, tmp_path: Path
) -> None:
    session = new_session()
    installation.hand_over(session, user=f"ann {SCRIPT}")
    installation.wait_until_settled(session)
    deployment = installation.deployment
    [seen] = view(deployment.engine, deployment.settings, [session])
    [url] = [each.record_url for each in seen.deliveries if each.destination == destination]

    assert url is not None
    dom = page(url, tmp_path / "profile")
    assert session in dom
    assert not re.search(rf"<html[^>]*{MARK}", dom)
