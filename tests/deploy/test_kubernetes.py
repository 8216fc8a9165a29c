import base64
import importlib
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from nexus_tasks.celery import SOFT_SHUTDOWN_S
from nexus_tasks.config import Settings, load_settings
from nexus_tasks.exporters.registry import DEFAULT_WINDOW, Registry
from tests.deploy.commands import options_of, unknown_words
from tests.deploy.files import ENV_EXAMPLE, KUBERNETES, OVERLAY, compose, env_lines, manifests, seconds
from tests.requirements import wanted

BASE = manifests(KUBERNETES / "base")
KEDA = "keda.sh/v1alpha1"
ROWS = """
    INSERT INTO destination (name, max_in_flight)
    VALUES ('cdcs', 16), ('elabftw', 16), ('labarchives', 1), ('archive', 16);
    INSERT INTO record (session_identifier, instrument_pid, dt_from, dt_to, timezone, document, sha256, activities,
        strategy) VALUES ('one', 'SEM', now(), now(), 'UTC', 'x', 'x', '[]', 'all');
    INSERT INTO run (record_id, token, expected_by) VALUES (1, gen_random_uuid(), now());
    INSERT INTO delivery (record_id, destination, priority, depends_on, requires, updates, state, next_attempt_at)
    VALUES (1, 'cdcs', 100, '{}', '{}', true, 'pending', now()),
        (1, 'elabftw', 85, '{}', '{}', true, 'retrying', now()),
        (1, 'labarchives', 90, '{}', '{}', true, 'retrying', now() + interval '1 hour'),
        (1, 'archive', 10, '{}', '{}', true, 'succeeded', now());
    INSERT INTO build_request (session_identifier, rebuild, not_before, begun_at, ended_at)
    VALUES ('new', false, NULL, NULL, NULL),
        ('its files may be there', false, now(), NULL, NULL),
        ('put off', false, now() + interval '10 minutes', NULL, NULL),
        ('under way', false, NULL, now(), NULL), ('under way again', false, now() - interval '1 hour', now(), NULL),
        ('again and again', true, NULL, now(), NULL),
        ('built', false, NULL, now(), now());
"""
DUE = {"cdcs": [1], "elabftw": [1], "labarchives": [0], "archive": [0], "exports": [1], "builds": [2, 3]}


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in BASE if each["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that runs, by name: what stands in its pod."""
    for each in BASE:
        if each["kind"] in {"Deployment", "Job"}:
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]
        elif each["kind"] == "CronJob":
            yield each["metadata"]["name"], each["spec"]["jobTemplate"]["spec"]["template"]["spec"]


PODS = dict(pods())
WORKERS = {name: pod for name, pod in PODS.items() if name.startswith("worker-")}


@pytest.fixture(scope="module")
def built() -> list[dict[str, Any]]:
    """The example, as `kubectl apply --kustomize` would send it."""
    wanted(shutil.which("kubectl"), "kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", OVERLAY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [dict(each) for each in yaml.safe_load_all(done.stdout)]


def test_the_example_is_built_and_holds_every_manifest(built: list[dict[str, Any]]) -> None:
    assert len(built) == len(BASE) + 3  # namespace, secret, settings
    images = {container["image"] for _, pod in pods() for container in pod["containers"]}
    assert images == {"nexus-tasks"}
    assert "image: nexus-tasks\n" not in yaml.safe_dump_all(built)


def test_every_object_is_what_kubernetes_published_schemas_allow(built: list[dict[str, Any]]) -> None:
    wanted(find_spec("kubernetes_validate"), "kubernetes-validate is not installed")
    kubernetes_validate = importlib.import_module("kubernetes_validate")
    version = kubernetes_validate.latest_version()
    core = [each for each in built if each["apiVersion"] != KEDA]
    assert len(core) > len(WORKERS)
    for each in core:
        kubernetes_validate.validate(each, version, strict=True)


def test_every_scaler_is_what_kedas_schema_allows(built: list[dict[str, Any]]) -> None:
    wanted(find_spec("cloudcoil"), "cloudcoil-models-keda is not installed")
    v1alpha1 = importlib.import_module("cloudcoil.models.keda.v1alpha1")
    for each in built:
        if each["apiVersion"] == KEDA:
            getattr(v1alpha1, each["kind"]).model_validate(each, extra="forbid")


def test_every_process_runs_the_command_of_the_compose_file() -> None:
    services = compose(env_lines(ENV_EXAMPLE))["services"]
    commands = {name: pod["containers"][0]["args"] for name, pod in PODS.items()}
    assert {name: unknown_words(command) for name, command in commands.items()} == {name: [] for name in PODS}
    for name in {*WORKERS, "beat", "flower", "migrate"}:
        assert commands[name] == services[name]["command"], name
    assert commands["build"] == ["nexus-tasks", "build", "--enqueue"]
    assert set(WORKERS) == {name for name in services if name.startswith("worker-")} - {"worker-plugins"}


@pytest.mark.parametrize("name", PODS)
def test_no_process_is_root_or_could_become_it(name: str) -> None:
    pod = PODS[name]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_may_end_its_calls_before_it_is_killed(name: str) -> None:
    grace = WORKERS[name]["terminationGracePeriodSeconds"]
    assert grace > max(SOFT_SHUTDOWN_S, Settings.model_fields["NX_CALL_DEADLINE"].default)
    assert grace == seconds(compose(env_lines(ENV_EXAMPLE))["services"][name]["stop_grace_period"])


@pytest.mark.parametrize("name", [name for name in PODS if name in of_kind("Deployment")])
def test_what_lasts_is_looked_after(name: str) -> None:
    [container] = PODS[name]["containers"]
    assert {"readinessProbe", "livenessProbe"} <= set(container)
    what = "worker" if name.startswith("worker-") else name
    for probe in (container["readinessProbe"], container["livenessProbe"]):
        if name == "flower":
            port = container["ports"][0]
            assert probe["httpGet"] == {"path": "/healthcheck", "port": port["name"]}
            assert f"--port={port['containerPort']}" in container["args"]
        else:
            assert probe["exec"]["command"] == ["/opt/nexus-tasks/deploy/healthy", what]


def test_at_most_one_worker_of_a_kind_is_taken_away_at_once() -> None:
    budgets = of_kind("PodDisruptionBudget")
    assert set(budgets) == set(WORKERS)
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        labels = of_kind("Deployment")[name]["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"] == labels


# --- scaling


def test_every_worker_is_scaled_on_its_queue_and_on_what_waits() -> None:
    scalers = of_kind("ScaledObject")
    assert set(scalers) == set(WORKERS)
    for name, scaler in scalers.items():
        queue = options_of(WORKERS[name]["containers"][0]["args"])["-Q"]
        broker, *counts = scaler["spec"]["triggers"]
        assert scaler["spec"]["scaleTargetRef"]["name"] == name
        assert scaler["spec"]["minReplicaCount"] >= 1  # finalize and probes do not wait for a pod
        assert (broker["type"], broker["metadata"]["listName"]) == ("redis", queue)
        assert counts
        assert {count["type"] for count in counts} == {"postgresql"}
        assert "replicas" not in of_kind("Deployment")[name]["spec"]  # it is KEDA's to say
        for trigger in (broker, *counts):
            assert trigger["authenticationRef"]["name"] in of_kind("TriggerAuthentication")


def test_no_more_processes_are_started_than_a_destination_lets_work(registry: Registry) -> None:
    for destination in registry.destinations:
        scaler = of_kind("ScaledObject")[f"worker-{destination.name}"]
        processes = int(options_of(WORKERS[f"worker-{destination.name}"]["containers"][0]["args"])["--concurrency"])
        assert scaler["spec"]["maxReplicaCount"] * processes <= getattr(destination, "window", DEFAULT_WINDOW)


def queries(scaler: dict[str, Any]) -> list[str]:
    return [each["metadata"]["query"] for each in scaler["spec"]["triggers"] if each["type"] == "postgresql"]


def test_a_running_build_keeps_a_replica() -> None:
    scaler = of_kind("ScaledObject")["worker-builds"]
    targets = [each["metadata"].get("targetQueryValue") for each in scaler["spec"]["triggers"]]
    assert targets == [None, "5", "1"]
    behavior = scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    grace = WORKERS["worker-builds"]["terminationGracePeriodSeconds"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] > grace


def test_every_query_counts_what_is_to_be_done(database_url: str) -> None:
    counted = {}
    with psycopg.connect(database_url) as connection:
        connection.execute(ROWS)
        for name, scaler in of_kind("ScaledObject").items():
            rows = [connection.execute(query).fetchone() for query in queries(scaler)]
            counted[name.removeprefix("worker-")] = [row[0] for row in rows if row is not None]
        assert counted == DUE
        connection.execute("UPDATE destination SET paused = true")  # nothing is due where nothing may go
        [query] = queries(of_kind("ScaledObject")["worker-cdcs"])
        assert connection.execute(query).fetchone() == (0,)
        connection.rollback()


# --- settings and secrets


def test_the_example_has_every_secret_and_every_setting_holds(tmp_path: Path) -> None:
    [secret] = [each for each in manifests(OVERLAY) if each["kind"] == "Secret"]
    values = dict(secret["stringData"])
    for authentication in of_kind("TriggerAuthentication").values():
        for reference in authentication["spec"]["secretTargetRef"]:
            assert (reference["name"], reference["key"] in values) == (secret["metadata"]["name"], True)
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert {name for name in values if name.startswith("NX_")} == secrets - {"NX_PROXIES"}
    settings = env_lines(OVERLAY / "settings.env")
    mounted = {mount["name"]: mount["mountPath"] for mount in PODS["beat"]["containers"][0]["volumeMounts"]}
    assert settings["NX_SECRETS_DIR"] == mounted["secrets"]
    assert settings["NX_DATA_PATH"] == mounted["data"]
    assert settings["NX_INSTRUMENT_DATA_PATH"] == mounted["instruments"]
    assert settings["NX_HEARTBEAT_FILE"].startswith(mounted["tmp"])
    load_settings(**{name: value for name, value in settings.items() if value} | {"NX_SECRETS_DIR": str(tmp_path)})


@pytest.mark.parametrize("name", PODS)
def test_what_a_pod_mounts_is_there(name: str) -> None:
    pod = PODS[name]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)
    claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    assert claims <= set(of_kind("PersistentVolumeClaim"))


def test_no_secret_is_in_the_settings(built: list[dict[str, Any]]) -> None:
    [settings] = [each for each in built if each["kind"] == "ConfigMap"]
    assert not {name for name in settings["data"] if "SecretStr" in str(Settings.model_fields[name].annotation)}
    encoded = base64.b64encode(b"change-me").decode()
    assert encoded not in yaml.safe_dump(settings)
