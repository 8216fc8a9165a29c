"""CDCS restored from a backup: what it lacks is sent again as docs/operating.md says, what it has is found."""

import os
import re
import subprocess
import sys
from pathlib import Path

import requests

from nexus_tasks.sandbox.services.standins import CDCS_TOKEN
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import new_session, record_xml
from tests.acceptance.test_repeated_exports import copies, once
from tests.acceptance.test_restore import export, hand_over
from tests.requirements import require_program

GUIDE = Path(__file__).parents[2] / "docs" / "operating.md"
COMMAND_DEADLINE = 60  # seconds


def test_what_another_cdcs_lacks_is_sent_again_and_nothing_is_doubled(make_installation: InstallationMaker) -> None:
    require_program("jq")
    [section] = re.findall(r"^## Another CDCS or eLabFTW\n(.*?)^## ", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    look_first, send_again = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    installation = make_installation({})
    with installation.entered():
        kept, lost = hand_over(installation, 2), new_session()
        installation.hand_over(lost)
        export(installation, [*kept, lost], "first")
        cdcs = installation.stand_ins.cdcs
        [missing] = [record["id"] for record in cdcs.objects() if record["title"].endswith(f"_{lost}")]
        headers = {"Authorization": f"Token {CDCS_TOKEN}"}
        assert requests.delete(f"{cdcs.url}/rest/data/{missing}/", headers=headers, timeout=10).status_code == 204
        there = {record["id"] for record in cdcs.objects()}
        backfilled = installation.command("destinations", "backfill", "cdcs")
        assert backfilled.output.startswith("0 records"), backfilled.output

        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for command in (look_first, send_again):
            done = subprocess.run(
                ["sh", "-euc", command],
                env={**os.environ, **installation.environment, "PATH": path},
                cwd=installation.folder,
                capture_output=True,
                text=True,
                timeout=COMMAND_DEADLINE,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        export(installation, [*kept, lost], "second")

        for session in (*kept, lost):
            assert installation.status(session) == "COMPLETED"
            assert copies(installation.stand_ins, session) == once(record_xml(session))
        now = {record["id"] for record in cdcs.objects()}
        assert there < now
        assert len(now) == len(there) + 1
        [url] = installation.rows(
            "SELECT remote_record_url FROM delivery JOIN record ON record.id = record_id "
            "WHERE session_identifier = :session AND destination = 'cdcs'",
            session=lost,
        )
        [number] = now - there
        assert url[0].endswith(f"id={number}")
