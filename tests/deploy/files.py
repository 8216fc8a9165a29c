"""The files that run an installation, as data: the compose file with its variables filled in, `.env`, units."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE_FILE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / ".env.example"
DOCKERFILE = DEPLOY / "Dockerfile"
MAKE_SECRETS = DEPLOY / "make-secrets"
UNITS = DEPLOY / "systemd"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAY = KUBERNETES / "overlays" / "example"
IN_IMAGE = "/opt/nexus-tasks/deploy"  # where the image has what it takes from DEPLOY

VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?P<rule>:[-?](?P<rest>[^}]*))?\}")
SECONDS = {"s": 1, "m": 60, "h": 3600}


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The compose file as the engine sees it, with these variables."""
    return dict(_filled_in(yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8")), variables))


def compose_variables() -> set[str]:
    """What the compose file asks for."""
    return {found["name"] for found in VARIABLE.finditer(COMPOSE_FILE.read_text(encoding="utf-8"))}


def _filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled_in(item, variables) for item in value]
    if isinstance(value, str):
        return VARIABLE.sub(lambda found: _value(found, variables), value)
    return value


def _value(found: "re.Match[str]", variables: Mapping[str, str]) -> str:
    value = variables.get(found["name"], "")
    if value or not found["rule"]:
        return value
    if found["rule"].startswith(":?"):
        raise KeyError(f"{found['name']}: {found['rest']}")
    return str(found["rest"])


def env_lines(file: Path) -> dict[str, str]:
    """What an environment file sets."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def env_names(file: Path) -> set[str]:
    """What it sets, or could set if the line were not a comment."""
    return set(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", file.read_text(encoding="utf-8"), re.MULTILINE))


def seconds(duration: str) -> int:
    """`2m` as 120."""
    return int(duration[:-1]) * SECONDS[duration[-1]]


def unit_values(unit: Path) -> Iterator[tuple[str, str]]:
    """The settings of a systemd unit, in their order, with %-specifiers as they are."""
    for line in unit.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            yield name, value


def unit_command(unit: Path) -> list[str]:
    """What it runs, as a list, programs without their folder."""
    command = shlex.split(dict(unit_values(unit))["ExecStart"].replace("%%", "%"))
    return [command[0].removeprefix("/opt/nexus-tasks/bin/"), *command[1:]]


def manifests(folder: Path) -> list[dict[str, Any]]:
    """All objects of a folder with Kubernetes manifests, without what kustomize does to them."""
    found = []
    for file in sorted(folder.glob("*.yaml")):
        if file.name != "kustomization.yaml":
            found += [dict(each) for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    return found


def everything() -> list[Path]:
    """Every file of a deployment in which a name of ours may stand."""
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return [COMPOSE_FILE, ENV_EXAMPLE, ROOT / "docs" / "scaling.md", *files]
