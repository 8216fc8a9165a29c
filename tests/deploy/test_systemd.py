import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nexus_tasks.celery import SOFT_SHUTDOWN_S
from nexus_tasks.config import Settings, load_settings
from tests.deploy.commands import options_of, unknown_words
from tests.deploy.files import ENV_EXAMPLE, MAKE_SECRETS, ROOT, UNITS, compose, env_lines, unit_command, unit_values
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
    said = verified(tmp_path, queues)
    assert (said.returncode, [line for line in said.stderr.splitlines() if "nexus-tasks" in line]) == (0, [])


def test_a_drop_in_for_all_units_stands_where_the_guide_puts_it(tmp_path: Path, queues: set[str]) -> None:
    guide = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    [(text, folder)] = re.findall(r"printf '(\S+)' > /etc/systemd/system/(\S+)/folders.conf", guide)
    (tmp_path / folder).mkdir()
    lines = text.replace("\\n", "\n") + "Misspelt=yes\n"  # by which the units that read it are told
    (tmp_path / folder / "folders.conf").write_text(lines, encoding="utf-8")
    said = [line for line in verified(tmp_path, queues).stderr.splitlines() if "nexus-tasks" in line]
    assert len(said) == len(SERVICES) - 1 + len(queues)
    assert all(f"{folder}/folders.conf" in line and "Misspelt" in line for line in said)


def verified(tmp_path: Path, queues: set[str]) -> "subprocess.CompletedProcess[str]":
    """What systemd says of the units, with a worker for each queue, and of the drop-ins in `tmp_path`."""
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
    return subprocess.run(
        [str(program), "verify", "--man=no", *[unit for unit in units if unit.name != WORKER.name]],
        capture_output=True,
        text=True,
        check=False,
    )


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
    assert {"NX_DATABASE_URL", "NX_BROKER_URL", "NX_RESULT_BACKEND_URL"} <= set(loaded)
    assert loaded == {name: f"/etc/nexus-tasks/secrets/{name}" for name in loaded}
    assert [name for name in loaded if not (tmp_path / name).is_file()] == []


OF_THE_UNIT_ALONE = {"Type", "ExecStart", "TimeoutStartSec"}
STAND_INS = {
    "systemctl": 'test "$*" = "cat nexus-tasks-build.service" && exec cat "$UNITS"/*',
    # what it was told, then the command as systemd would start it
    "systemd-run": """
        while case "$1" in -*) ;; *) false ;; esac; do printf '%s\n' "$1" >>"$TOLD"; shift; done
        CREDENTIALS_DIRECTORY=$SECRETS exec "$@"
        """,
}


def test_a_command_that_root_gives_has_the_settings_secrets_and_rights_of_the_units(tmp_path: Path) -> None:
    # No systemd runs here that could start it.
    programs, units, secrets, told = (tmp_path / name for name in ("bin", "units", "secrets", "told"))
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    unit = UNITS / "nexus-tasks-build.service"
    units.mkdir()
    shutil.copyfile(unit, units / unit.name)
    drop_in = "ReadWritePaths=/srv/a b"
    (units / f"{unit.name}.conf").write_text(f"# a drop-in\n[Service]\n{drop_in}\n", encoding="utf-8")
    subprocess.run([MAKE_SECRETS, secrets], check=True, capture_output=True)
    command = programs / "nexus-tasks"
    text = (UNITS / "nexus-tasks").read_text(encoding="utf-8")
    command.write_text(text.replace("/opt/nexus-tasks/bin", str(Path(sys.executable).parent)), encoding="utf-8")
    command.chmod((UNITS / "nexus-tasks").stat().st_mode)
    environment = {"UNITS": str(units), "SECRETS": str(secrets), "TOLD": str(told)}
    environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run([command, "config", "--json"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["NX_SECRETS_DIR"] == str(secrets)
    options = told.read_text(encoding="utf-8").splitlines()
    [*_, service] = unit.read_text(encoding="utf-8").partition("[Service]\n")
    of_unit = [line for line in service.splitlines() if line and not line.startswith("#") and "%d" not in line]
    of_unit = [line for line in of_unit if line.partition("=")[0] not in OF_THE_UNIT_ALONE]
    assert "LoadCredential=NX_CDCS_TOKEN:/etc/nexus-tasks/secrets/NX_CDCS_TOKEN" in of_unit
    assert [option for option in options if "=" in option] == [f"--property={line}" for line in [*of_unit, drop_in]]
    assert "--wait" in options
    refused = subprocess.run([command, "config", "--a b"], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2  # the command's own
    assert "--a b" in refused.stderr


def test_what_is_no_secret_holds_as_settings() -> None:
    lines = (UNITS / "nexus-tasks.env").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(?:# )?(NX_[A-Z_]+)=(.*)$", lines, re.MULTILINE))
    assert set(values) <= set(Settings.model_fields)
    load_settings(**{name: value for name, value in values.items() if value})
    for name, value in [pair for unit in SERVICES for pair in unit_values(unit) if pair[0] == "Environment"]:
        assert re.fullmatch(r"(NX_[A-Z_]+|CONCURRENCY)=\S+", value), (name, value)
