"""The compose file's own processes, without an engine: they export, are restarted in turn under load, lose nothing."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from nexus_tasks.celery import get_app
from nexus_tasks.config import Settings, get_settings
from nexus_tasks.delivery.export_records import export_records
from nexus_tasks.entry import current_deployment
from nexus_tasks.exporters.registry import get_registry
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.postgres import EmbeddedPostgres
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.services.standins import StandIns
from nexus_tasks.sandbox.waiting import wait_until
from tests.chaos.audit import audit
from tests.chaos.audit_objects import Objects
from tests.chaos.records import expected, records
from tests.chaos.rows import UNFINISHED, read_rows
from tests.deploy.services import Services

RECORDS = 100
LOOK_INTERVAL_S = 0.3
SETTLED_S = 60.0
CALL_S = 3.0  # the call that is under way when its worker is told to stop

# short, as in tests/acceptance/installation.py; in seconds
SETTINGS = {
    "NX_DISPATCH_INTERVAL": "0.5",
    "NX_TRY_BACKOFF": "0.3",
    "NX_RETRY_DELAYS": "1",
    "NX_CALL_DEADLINE": "10",
    "NX_LEASE_MARGIN": "2",
    "NX_LOOKUP_GRACE": "1",
    "NX_RUN_PATIENCE": "15",
    "NX_WINDOWS": "labarchives=8",
}
SECRETS = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}


class Installed:
    """The services, what they talk to, and a builder: this process."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres) -> None:
        self.postgres = postgres
        self.stand_ins = StandIns.start()
        told = {**self.stand_ins.environment(), **SETTINGS, "INSTRUMENTS_FOLDER": str(folder / "instruments")}
        self.services = Services(
            folder,
            postgres_port=postgres.port,
            settings={name: value for name, value in told.items() if name not in SECRETS},
            secrets={name: value for name, value in told.items() if name in SECRETS},
        )
        self._patch = pytest.MonkeyPatch()  # destinations look at the settings when they are asked
        for name, value in self.services.environment("builder").items():
            self._patch.setenv(name, value)
        forget()
        self.deployment = current_deployment()

    def hand_over(self, first: int, end: int) -> None:
        """The records from `first` up to `end`, counted from 0."""
        export_records(list(records(end))[first:end], self.deployment)

    def settled(self, count: int) -> bool:
        """Whether all of them have come to an end; what has ended by itself is started again, as compose does."""
        time.sleep(LOOK_INTERVAL_S)
        self.services.revive()
        rows = read_rows(self.postgres.url)
        under_way = [row for row in rows.deliveries if row.state in UNFINISHED]
        return len(rows.statuses) == count and not under_way and not rows.open_runs

    def objects(self) -> Objects:
        cdcs, elabftw, labarchives = (server.objects(content=True) for server in self.stand_ins.servers)
        return Objects(cdcs, elabftw, labarchives)

    def stop(self) -> None:
        self.services.stop()
        self.deployment.app.close()
        self.deployment.engine.dispose()
        self.stand_ins.stop()
        self._patch.undo()
        forget()


def posted(installed: Installed) -> int:
    """How many calls that create a record CDCS has received."""
    return int(installed.stand_ins.cdcs.calls.as_json()["by_path"].get("POST /rest/data/", 0))


def forget() -> None:
    for remembered in (get_settings, get_registry, get_app):
        remembered.cache_clear()


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    """With a database server of its own, which is restarted as well."""
    with Lifeline(tmp_path / "processes"), EmbeddedPostgres(tmp_path / "postgres", fsync=False) as postgres:
        made = Installed(tmp_path, postgres)
        yield made
        made.stop()


@pytest.mark.thorough
def test_every_process_is_restarted_in_turn_under_load_and_nothing_is_lost_or_doubled(installed: Installed) -> None:
    services = installed.services
    services.start()
    flower = f"http://127.0.0.1:{services.flower_port}"
    assert requests.get(f"{flower}/workers", timeout=10).status_code == 401
    user, password = (services.secrets / "flower_password").read_text().strip().split(":")
    assert requests.get(f"{flower}/workers", auth=(user, password), timeout=10).status_code == 200
    for server in installed.stand_ins.servers:
        server.faults.replace([Fault(FaultKind.LATENCY, seconds=0.3)])

    took, share = {}, math.ceil(RECORDS / len(services.processes))
    for number, name in enumerate(services.processes):
        installed.hand_over(number * share, min(RECORDS, (number + 1) * share))
        took[name] = services.restart(name)
    for server in installed.stand_ins.servers:
        server.faults.replace([])
    wait_until(lambda: installed.settled(RECORDS), SETTLED_S, "all records to be settled")

    every = [expected(record) for record in records(RECORDS)]
    assert audit(every, installed.objects(), read_rows(installed.postgres.url)) == []
    assert all(seconds < services.grace(name) for name, seconds in took.items()), took
    assert [name for name in services.processes if not services.healthy(name)] == []


@pytest.mark.thorough
def test_the_servers_are_restarted_under_load_and_nothing_is_lost_or_doubled(installed: Installed) -> None:
    services, count = installed.services, 20
    services.start(("worker-cdcs", "worker-elabftw", "worker-labarchives", "worker-exports", "beat"))
    for server in installed.stand_ins.servers:
        server.faults.replace([Fault(FaultKind.LATENCY, seconds=0.2)])

    installed.hand_over(0, count)
    services.valkey.restart()
    wait_until(lambda: installed.stand_ins.cdcs.calls.as_json()["total"] > 0, 30, "the first call")
    installed.postgres.restart()
    wait_until(lambda: installed.settled(count), SETTLED_S, "all records to be settled")

    every = [expected(record) for record in records(count)]
    assert audit(every, installed.objects(), read_rows(installed.postgres.url)) == []


@pytest.mark.thorough
def test_a_worker_that_is_told_to_stop_waits_for_its_http_call_which_is_not_repeated(installed: Installed) -> None:
    services, cdcs = installed.services, installed.stand_ins.cdcs
    services.start(("worker-cdcs", "worker-elabftw", "worker-labarchives", "worker-exports", "beat"))
    cdcs.faults.replace([Fault(FaultKind.LATENCY, seconds=CALL_S, method="POST", path="^/rest/data/$")])

    installed.hand_over(0, 1)
    wait_until(lambda: posted(installed) == 1, 30, "the call to be under way")
    took = services.end("worker-cdcs")
    assert posted(installed) == 1
    assert CALL_S / 2 < took < services.grace("worker-cdcs")
    [attempt] = [row for row in read_rows(installed.postgres.url).attempts if row.destination == "cdcs"]
    assert attempt.state == "succeeded"

    services.start_one("worker-cdcs")
    wait_until(lambda: installed.settled(1), SETTLED_S, "the record to be settled")
    assert posted(installed) == 1
    [record] = [expected(record) for record in records(1)]
    assert audit([record], installed.objects(), read_rows(installed.postgres.url)) == []
