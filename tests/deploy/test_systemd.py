import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nexus_tasks.celery import SOFT_SHUTDOWN_S
from nexus_tasks.config import Settings, load_settings
from tests.deploy.commands import options_of, unknown_words
from tests.deploy.files import ENV_EXAMPLE, MAKE_SECRETS, UNITS, compose, env_lines, unit_command, unit_values
from tests.requirements import wanted

SERVICES = sorted(UNITS.glob("*.service"))
LASTING = [unit for unit in SERVICES if unit.name != "nexus-tasks-build.service"]
WORKER = UNITS / "nexus-tasks-worker@.service"
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ReadWritePaths": "/var/lib/nexus-tasks",
    "CapabilityBoundingSet": "",
    "User": "nexus",
}


def named(units: list[Path]) -> list[str]:
    return [unit.name for unit in units]


def test_systemd_finds_nothing_wrong(tmp_path: Path, queues: set[str]) -> None:
    program = shutil.which("systemd-analyze")
    wanted(program, "systemd-analyze is not installed")
    for unit in UNITS.iterdir():
        if unit.is_file():
            text = unit.read_text(encoding="utf-8")  # the programs of this environment, which verify looks for
            (tmp_path / unit.name).write_text(text.replace("/opt/nexus-tasks/bin", str(Path(sys.executable).parent)))
        else:
            shutil.copytree(unit, tmp_path / unit.name)
    for queue in queues:
        shutil.copyfile(tmp_path / WORKER.name, tmp_path / f"nexus-tasks-worker@{queue}.service")
    units = [path for path in sorted(tmp_path.iterdir()) if path.suffix in {".service", ".timer", ".target"}]
    done = subprocess.run(
        [str(program), "verify", "--man=no", *[unit for unit in units if unit.name != WORKER.name]],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "nexus-tasks" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("unit", SERVICES, ids=named(SERVICES))
def test_every_command_is_one_that_the_code_knows(unit: Path) -> None:
    assert unknown_words(unit_command(unit)) == []


@pytest.mark.parametrize("unit", SERVICES, ids=named(SERVICES))
def test_every_unit_is_shut_in(unit: Path) -> None:
    values = dict(unit_values(unit))
    assert {name: values.get(name) for name in HARDENED} == HARDENED


@pytest.mark.parametrize("unit", LASTING, ids=named(LASTING))
def test_what_ends_is_started_again_however_often(unit: Path) -> None:
    values = dict(unit_values(unit))
    assert (values["Restart"], values["StartLimitIntervalSec"]) == ("always", "0")
    assert values["PartOf"] == values["WantedBy"] == "nexus-tasks.target"


def test_a_worker_is_told_to_stop_alone_and_may_end_its_calls_first() -> None:
    values = dict(unit_values(WORKER))
    assert values["KillMode"] == "mixed"  # its children would die of the signal
    longest = max(SOFT_SHUTDOWN_S, Settings.model_fields["NX_CALL_DEADLINE"].default)
    assert int(values["TimeoutStopSec"]) > longest


def test_a_worker_does_what_the_one_in_the_compose_file_does() -> None:
    options = options_of(unit_command(WORKER))
    in_compose = options_of(compose(env_lines(ENV_EXAMPLE))["services"]["worker-cdcs"]["command"])
    assert set(options) == set(in_compose)
    assert (options["-Q"], options["--hostname"], options["--concurrency"]) == ("%i", "%i@%h", "${CONCURRENCY}")


@pytest.mark.parametrize("unit", SERVICES, ids=named(SERVICES))
def test_secrets_are_credentials_under_the_names_of_their_settings(unit: Path, tmp_path: Path) -> None:
    subprocess.run([MAKE_SECRETS, tmp_path], check=True, capture_output=True)
    values = list(unit_values(unit))
    loaded = dict(value.split(":", 1) for name, value in values if name == "LoadCredential")
    assert ("Environment", "NX_SECRETS_DIR=%d") in values
    assert {"NX_DATABASE_URL", "NX_BROKER_URL"} <= set(loaded)
    assert loaded == {name: f"/etc/nexus-tasks/secrets/{name}" for name in loaded}
    assert [name for name in loaded if not (tmp_path / name).is_file()] == []


def test_what_is_no_secret_holds_as_settings() -> None:
    lines = (UNITS / "nexus-tasks.env").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(?:# )?(NX_[A-Z_]+)=(.*)$", lines, re.MULTILINE))
    assert set(values) <= set(Settings.model_fields)
    load_settings(**{name: value for name, value in values.items() if value})
    for name, value in [pair for unit in SERVICES for pair in unit_values(unit) if pair[0] == "Environment"]:
        assert re.fullmatch(r"(NX_[A-Z_]+|CONCURRENCY)=\S+", value), (name, value)
