"""Says at the end of a test run which programs that others wrote it was checked against; `conftest` calls it."""

from collections import Counter

import pytest

PEERS = {
    "a real CDCS (core-main-app)": "tests/live/test_cdcs.py",
    "a real NexusLIMS": "tests/live/test_nexuslims.py",
    "elabapi-python, eLabFTW's client": "tests/integration/exporters/test_elabftw_client.py",
    "eLabFTW's OpenAPI file": "tests/integration/exporters/test_elabftw_openapi.py",
    "labapi, a client of LabArchives": "tests/integration/exporters/test_labarchives_client.py",
    "an S3 server (moto)": "tests/integration/exporters/test_archive.py",
    "RabbitMQ": "tests/acceptance/test_rabbitmq.py",
    "TLS of PostgreSQL, Redis and RabbitMQ": "tests/acceptance/test_tls.py",
    "files of real microscopes": "tests/unit/builder/test_shared_data.py",
    "Chromium": "tests/acceptance/test_pages.py",
}


def summarise(reporter: pytest.TerminalReporter) -> None:
    """One line for each that tests of this run were about, with how many passed."""
    ran = {
        outcome: Counter(report.nodeid.partition("::")[0] for report in reporter.stats.get(outcome, []))
        for outcome in ("passed", "failed", "error", "skipped")
    }
    lines = []
    for name, file in PEERS.items():
        counts = [f"{found[file]} {outcome}" for outcome, found in ran.items() if found[file]]
        if counts:
            lines.append(f"{name}: {', '.join(counts)}")
    if lines:
        reporter.section("checked against what others wrote", sep="=")
        for line in lines:
            reporter.write_line(line)
