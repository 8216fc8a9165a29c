import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.celery import SOFT_SHUTDOWN_S
from nexus_tasks.config import Settings, load_settings
from tests.deploy.commands import options_of, unknown_words
from tests.deploy.files import (
    COMPOSE_FILE,
    ENV_EXAMPLE,
    MAKE_SECRETS,
    compose,
    compose_variables,
    env_lines,
    env_names,
    seconds,
)
from tests.requirements import require_module

SERVERS = {"postgres", "valkey"}
SECRETS = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
OPTIONAL_SECRETS = {
    "NX_PROXIES",  # needed by few; most proxies ask for no password
}


@pytest.fixture
def file() -> dict[str, Any]:
    return compose(env_lines(ENV_EXAMPLE))


@pytest.fixture
def ours(file: dict[str, Any]) -> dict[str, Any]:
    """The services that run this package."""
    return {name: service for name, service in file["services"].items() if name not in SERVERS}


@pytest.fixture
def workers(ours: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The options of each worker's command."""
    return {name: options_of(service["command"]) for name, service in ours.items() if name.startswith("worker-")}


def test_the_file_is_what_the_compose_specification_allows(file: dict[str, Any]) -> None:
    require_module("compose_spec", "compose-spec")
    compose_spec = importlib.import_module("compose_spec")
    assert set(compose_spec.PyCompose.from_json(json.dumps(file)).service_names()) == set(file["services"])


def test_every_command_is_one_that_the_code_knows(ours: dict[str, Any]) -> None:
    assert {name: unknown_words(service["command"]) for name, service in ours.items()} == {name: [] for name in ours}


def test_a_misspelt_command_is_noticed() -> None:
    assert unknown_words(["celery", "-A", "nexus_tasks", "worker", "--concurency", "4"]) == ["--concurency"]
    assert unknown_words(["celery", "-A", "nexus_tasks", "wroker"]) == ["wroker"]
    assert unknown_words(["nexus-tasks", "db", "ugprade"]) == ["ugprade"]
    assert unknown_words(["nexus-tasks", "build", "--enqeue"]) == ["--enqeue"]
    assert unknown_words(["celery", "-A", "nexus_tasks", "flower", "--prot=5555"]) == ["--prot=5555"]


def test_every_queue_is_read_by_one_worker_service(workers: dict[str, dict[str, str]], queues: set[str]) -> None:
    read = [options["-Q"] for options in workers.values() if "-Q" in options]
    assert sorted(read) == sorted(queues)
    assert set(workers["worker-plugins"]["-X"].split(",")) == queues


def test_workers_are_told_apart_by_their_names(workers: dict[str, dict[str, str]]) -> None:
    names = {name: options["--hostname"] for name, options in workers.items()}
    assert names == {name: f"{name.removeprefix('worker-')}@%h" for name in workers}


def test_nothing_stands_in_the_way_of_scaling(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        assert "container_name" not in service, name
        assert "hostname" not in service, name
        assert name == "flower" or "ports" not in service, name
    assert file["services"]["flower"]["ports"] == ["127.0.0.1:5555:5555"]


def test_everything_is_started_again_but_the_migration_which_all_wait_for(ours: dict[str, Any]) -> None:
    assert ours["migrate"]["restart"] == "no"
    for name, service in ours.items():
        if name != "migrate":
            assert service["restart"] == "unless-stopped", name
            assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}, name
            assert service["depends_on"]["valkey"] == {"condition": "service_healthy"}, name


def test_every_process_has_a_health_check(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        assert service["healthcheck"].get("test") or name == "migrate", name


def test_workers_may_end_their_calls_before_they_are_killed(ours: dict[str, Any]) -> None:
    longest = max(SOFT_SHUTDOWN_S, Settings.model_fields["NX_CALL_DEADLINE"].default)
    for name, service in ours.items():
        if name.startswith("worker-"):
            assert seconds(service["stop_grace_period"]) > longest, name


def test_processes_have_no_rights_that_they_do_not_need(ours: dict[str, Any]) -> None:
    for name, service in ours.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "user" not in service, name  # the image's, which is not root
        assert "privileged" not in service, name


def test_the_broker_forgets_nothing_and_wants_a_password(file: dict[str, Any]) -> None:
    options = options_of(file["services"]["valkey"]["command"])
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "/run/secrets/valkey_password.conf" in file["services"]["valkey"]["command"]


def test_images_are_pinned_by_tag(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        _, colon, tag = service["image"].rpartition(":")
        assert colon, name
        assert tag != "latest", name


# --- secrets


def test_every_secret_is_a_file_that_make_secrets_makes(file: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([MAKE_SECRETS, folder], check=True, capture_output=True)
    made = {path.name: path for path in folder.iterdir() if path.name != ".gitignore"}
    assert {name: Path(secret["file"]).name for name, secret in file["secrets"].items()} == {
        name: name for name in made
    }
    assert {name for name in made if name.startswith("NX_")} == SECRETS - OPTIONAL_SECRETS
    settings = load_settings(NX_SECRETS_DIR=str(folder))
    password = made["postgres_password"].read_text().strip()
    assert settings.database_url == f"postgresql://nexus:{password}@postgres:5432/nexus"
    assert len(password) == 48
    required = made["valkey_password.conf"].read_text().split()
    assert required[0] == "requirepass"
    assert settings.broker_url == f"redis://:{required[1]}@valkey:6379/0"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_make_secrets_overwrites_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([MAKE_SECRETS, folder], check=True, capture_output=True)
    (folder / "NX_CDCS_TOKEN").write_text("mine")
    before = {path.name: path.read_text() for path in folder.iterdir()}
    again = subprocess.run([MAKE_SECRETS, folder], check=True, capture_output=True, text=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert again.stdout == ""


def test_make_secrets_says_where_a_password_that_it_made_up_has_to_be_set(tmp_path: Path) -> None:
    def said(*hosts: str) -> str:
        command = [str(MAKE_SECRETS), str(tmp_path / f"for {len(hosts)}"), *hosts]
        return str(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert "made up" not in said()  # the servers of the compose file read these files
    assert "set it for the user nexus of PostgreSQL on db.example.org:5432" in said("db.example.org:5432")
    assert "set it in the broker on b.example.org:6379" in said("db.example.org:5432", "b.example.org:6379")


def test_services_name_secrets_that_are_there_and_every_one_of_ours_gets_what_it_needs(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        assert set(service["secrets"]) <= set(file["secrets"]), name
        if name not in SERVERS:
            assert {"NX_DATABASE_URL", "NX_BROKER_URL", "NX_RESULT_BACKEND_URL"} <= set(service["secrets"]), name
            assert service["environment"]["NX_SECRETS_DIR"] == "/run/secrets", name
    for name in ("worker-cdcs", "worker-plugins", "builder"):
        assert set(file["services"][name]["secrets"]) >= SECRETS - OPTIONAL_SECRETS, name


def test_no_secret_stands_in_the_compose_file_or_in_env_example() -> None:
    for path in (COMPOSE_FILE, ENV_EXAMPLE):
        assert not re.search(r"(?i)(password|token|key|secret)=\S", path.read_text(encoding="utf-8")), path
    assert not set(env_lines(ENV_EXAMPLE)) & SECRETS


# --- .env


def test_the_example_names_every_variable_of_the_compose_file() -> None:
    named = env_names(ENV_EXAMPLE)
    assert compose_variables() <= named
    others = {name for name in named if not name.startswith("NX_")} - compose_variables()
    assert others == {"COMPOSE_PROFILES"}  # the engine's own


def test_the_example_is_enough_and_its_defaults_are_those_of_the_compose_file(file: dict[str, Any]) -> None:
    commented = dict(re.findall(r"^#([A-Z]+(?:_[A-Z]+)*)=(.*)$", ENV_EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))
    defaults = {name: value for name, value in commented.items() if name in compose_variables()}
    assert compose({**env_lines(ENV_EXAMPLE), **defaults}) == file


def test_without_the_microscope_files_folder_it_says_so() -> None:
    with pytest.raises(KeyError, match="INSTRUMENTS_FOLDER"):
        compose({})


def test_the_settings_of_the_example_are_settings_that_hold() -> None:
    text = ENV_EXAMPLE.read_text(encoding="utf-8")
    values = dict(re.findall(r"^#?(NX_[A-Z_]+)=(.+)$", text, re.MULTILINE))
    settings = load_settings(**values)
    assert settings.NX_WINDOWS == {"cdcs": 16, "labarchives": 8}
    assert {name for name in values if name not in Settings.model_fields} == set()
