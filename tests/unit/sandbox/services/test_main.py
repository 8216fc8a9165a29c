import json
import signal
import subprocess
import sys

import requests


def test_the_stand_ins_run_until_they_are_told_to_end() -> None:
    command = [sys.executable, "-m", "nexus_tasks.sandbox.services", "--ports", "0", "0", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            environment = json.loads(process.stdout.readline())
            assert requests.get(f"{environment['NX_CDCS_URL']}/", timeout=5).status_code == 200
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=5)
            assert (process.returncode, output, errors) == (0, "", "")
        finally:
            process.kill()


def test_a_port_that_is_taken_and_a_public_host_are_said_in_one_line() -> None:
    command = [sys.executable, "-m", "nexus_tasks.sandbox.services", "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "loopback only" in done.stderr
    assert done.stderr.count("\n") == 1
