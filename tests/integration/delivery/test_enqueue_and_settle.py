"""Records handed over and settled on a real PostgreSQL and a real broker, with nobody but the test to work on them."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import celery._state
import pytest
import redis
from sqlalchemy import text

from nexus_tasks.celery import create_app
from nexus_tasks.config import load_settings
from nexus_tasks.db import deliveries, records, runs, sessions, upload_log
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.db.rows import AttemptRow, DeliveryRow, InstrumentRow, SessionRow
from nexus_tasks.delivery import archive, attempt
from nexus_tasks.delivery.attempt import NotWantedError, Try
from nexus_tasks.delivery.dispatch import dispatch
from nexus_tasks.delivery.documents import ARCHIVE_FOLDER, DocumentError
from nexus_tasks.delivery.enqueue import (
    ClaimLostError,
    EnqueueError,
    HandedOver,
    RecordToExport,
    export_records,
)
from nexus_tasks.delivery.freeze import DependencyCycleError
from nexus_tasks.delivery.settle import Settled, settle
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportDestination,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.registry import Registry
from nexus_tasks.states import AttemptState, DeliveryState, RunState, SessionStatus

SESSION = "2025-01-27_10-30-15_abc123"
INSTRUMENT = "FEI-Titan-TEM-012345"
START = datetime(2025, 1, 27, 15, 30, 15, tzinfo=UTC)
RECORD = RecordToExport(
    session_identifier=SESSION,
    instrument_pid=INSTRUMENT,
    dt_from=START,
    dt_to=START + timedelta(hours=4),
    timezone="America/New_York",
    user="jsmith",
    xml=b"<Experiment/>",
    activities=[{"files": ["Titan/a.dm3"], "previews": [None]}],
)
MOST_SECONDS_WITHOUT_BROKER = 2.0


@dataclass
class Fake:
    """A destination that does what `answer` says, and keeps what it was given."""

    name: str
    priority: int
    enabled: bool = True
    depends_on: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    window: int = 16
    answer: Callable[[ExportContext], Any] | None = None
    valid: Callable[[], tuple[bool, str | None]] = lambda: (True, None)
    contexts: list[ExportContext] = field(default_factory=list)

    def validate_config(self) -> tuple[bool, str | None]:
        return self.valid()

    def export(self, context: ExportContext) -> ExportResult:
        self.contexts.append(context)
        if self.answer is not None:
            returned: ExportResult = self.answer(context)
            return returned
        return ExportResult(
            success=True, destination_name=self.name, record_id="7", record_url=f"https://{self.name}.example.org/7"
        )


def cdcs(**options: Any) -> Fake:
    return Fake("cdcs", 100, **options)


def elabftw(**options: Any) -> Fake:
    return Fake("elabftw", 85, **{"depends_on": ("cdcs",), **options})


def raising(error: BaseException) -> Callable[[ExportContext], Any]:
    def answer(_: ExportContext) -> Any:
        raise error

    return answer


Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Deploy]:
    """Make an installation with these destinations; settings are named as in the environment."""
    current = celery._state._tls.current_app
    apps = []

    def make(*destinations: ExportDestination, **settings: Any) -> Deployment:
        ranked = tuple(sorted(destinations, key=lambda destination: -destination.priority))
        loaded = load_settings(
            **{"NX_DATABASE_URL": database_url, "NX_BROKER_URL": broker_url, "NX_DATA_PATH": tmp_path, **settings}
        )
        registry = Registry(ranked)
        apps.append(create_app(loaded, registry))
        return Deployment(loaded, engine_for(database_url), apps[-1], registry)

    yield make
    for app in apps:
        app.close()
    engine_for(database_url).dispose()
    celery._state._set_current_app(current)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def hand_over(deployment: Deployment, *to_export: RecordToExport) -> HandedOver:
    return export_records(to_export or [RECORD], deployment)


def rows_of(deployment: Deployment, record_id: int = 1) -> dict[str, DeliveryRow]:
    with transaction(deployment.engine) as connection:
        return {row.destination: row for row in deliveries.of_record(connection, record_id).deliveries}


def states_of(deployment: Deployment, record_id: int = 1) -> dict[str, DeliveryState]:
    return {name: row.state for name, row in rows_of(deployment, record_id).items()}


def attempts_of(deployment: Deployment, record_id: int = 1) -> list[AttemptRow]:
    with transaction(deployment.engine) as connection:
        return runs.attempts_of_record(connection, record_id)


def status_of(deployment: Deployment, session: str = SESSION) -> SessionStatus:
    with transaction(deployment.engine) as connection:
        [row] = sessions.sessions(connection, [session])
    return row.status


def log_of(deployment: Deployment, session: str = SESSION) -> list[tuple[str, int]]:
    """The upload log, oldest first: (destination, success)."""
    with transaction(deployment.engine) as connection:
        rows = upload_log.of_session(connection, session)
    return [(row.destination_name, row.success) for row in reversed(rows)]


def everything(deployment: Deployment) -> dict[str, Any]:
    """Every row that there is."""
    tables = ("instruments", "session_log", "record", "delivery", "run", "attempt", "destination", "upload_log")
    with transaction(deployment.engine) as connection:
        return {
            table: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1")]
            for table in tables
        }


def messages_in(broker_url: str, *queues: str) -> dict[str, int]:
    with redis.Redis.from_url(broker_url) as client:
        lengths = {queue: client.llen(queue) for queue in queues}
    return {queue: int(str(length)) for queue, length in lengths.items()}


def open_attempt(deployment: Deployment, destination: str, record_id: int = 1) -> int:
    [found] = [
        row.id
        for row in attempts_of(deployment, record_id)
        if row.destination == destination and not row.state.ended and row.run_state is RunState.OPEN
    ]
    return found


def try_once(deployment: Deployment, destination: str, record_id: int = 1) -> dict[str, Any]:
    """What a worker does with the message for `destination`, without Celery's short retries."""
    attempt_id = open_attempt(deployment, destination, record_id)
    begun = attempt.begin(deployment.engine, attempt_id)
    if not isinstance(begun, Try):
        return begun
    plugin = deployment.registry.get(destination)
    assert plugin is not None
    outcome: ExportResult | ExportError
    try:
        outcome = attempt.perform(begun, plugin, deployment.engine, deployment.settings)
    except ExportError as error:
        outcome = error
    result, _ = attempt.finish(deployment.engine, attempt_id, deployment.settings, outcome)
    return result


def work(deployment: Deployment, *destinations: str, record_id: int = 1) -> Settled:
    """What the workers do with one run."""
    for destination in destinations:
        try_once(deployment, destination, record_id)
    return settle(deployment.engine, record_id)


def work_again(deployment: Deployment, *destinations: str) -> Settled:
    """The next run, without waiting for its time."""
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE delivery SET next_attempt_at = now() WHERE state = 'waiting'"))
    assert dispatch(deployment.app, deployment.engine) == 1
    return work(deployment, *destinations)


def begun(deployment: Deployment, destination: str) -> Try:
    started = attempt.begin(deployment.engine, open_attempt(deployment, destination))
    assert isinstance(started, Try)
    return started


def performed(deployment: Deployment, destination: Fake) -> ExportResult:
    return attempt.perform(begun(deployment, destination.name), destination, deployment.engine, deployment.settings)


def wait_of(deployment: Deployment, destination: str) -> timedelta:
    """How long the delivery waits from now on."""
    with transaction(deployment.engine) as connection:
        now = deliveries.clock(connection)
    next_attempt_at = rows_of(deployment)[destination].next_attempt_at
    assert next_attempt_at is not None
    return next_attempt_at - now


# --- handing over


def test_a_record_is_taken_over_and_sent(deploy: Deploy, broker_url: str, tmp_path: Path) -> None:
    deployment = deploy(cdcs(), elabftw())
    handed_over = hand_over(deployment)
    assert handed_over == HandedOver(record_ids=(1,), destinations=("cdcs", "elabftw"))
    assert states_of(deployment) == {"cdcs": DeliveryState.PENDING, "elabftw": DeliveryState.PENDING}
    assert {row.state for row in attempts_of(deployment)} == {AttemptState.PLANNED}
    assert status_of(deployment) is SessionStatus.BUILT_NOT_EXPORTED
    assert messages_in(broker_url, "export.cdcs", "export.elabftw") == {"export.cdcs": 1, "export.elabftw": 0}
    [document] = (tmp_path / "records").glob("*.xml")
    assert document.read_bytes() == RECORD.xml
    assert document.name.startswith(f"2025-01-27_{INSTRUMENT}_{SESSION}-")


def test_destinations_that_are_not_enabled_take_no_part(deploy: Deploy) -> None:
    assert hand_over(deploy(cdcs(), elabftw(enabled=False))).destinations == ("cdcs",)


def test_the_same_record_again_changes_nothing(deploy: Deploy, broker_url: str, tmp_path: Path) -> None:
    deployment = deploy(cdcs(), elabftw())
    first = hand_over(deployment)
    before = everything(deployment)
    assert hand_over(deployment) == first
    assert everything(deployment) == before
    assert len(list((tmp_path / "records").rglob("*.xml"))) == 1
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 1}


def test_the_same_record_again_after_its_export_changes_nothing(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    work(deployment, "cdcs")
    archive.sweep(deployment.engine, deployment.settings)
    before = everything(deployment)
    hand_over(deployment)
    assert everything(deployment) == before


def test_the_same_record_again_is_judged_by_its_rows_and_not_by_what_is_enabled_now(deploy: Deploy) -> None:
    hand_over(deploy(cdcs()))
    later = deploy(cdcs(enabled=False), elabftw(), NX_EXPORT_STRATEGY="best_effort")
    hand_over(later)
    assert set(states_of(later)) == {"cdcs"}
    assert everything(later)["record"][0][10] == "all"


def test_the_same_record_by_two_builders_at_once_is_one_record(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    together = threading.Barrier(4)

    def hand_over_together(_: int) -> HandedOver:
        together.wait(10)
        return hand_over(deployment)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(hand_over_together, range(4)))
    assert len({outcome.record_ids for outcome in outcomes}) == 1
    rows = everything(deployment)
    assert (len(rows["record"]), len(rows["delivery"]), len(rows["run"])) == (1, 2, 1)
    events = sorted(str(row[4]) for row in rows["session_log"])
    assert events == ["END", "RECORD_GENERATION", "START"]


def test_other_contents_for_the_same_session_are_refused_in_one_line(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    before = everything(deployment)
    with pytest.raises(EnqueueError, match=rf"^Session {SESSION} has a record with other contents already.*\.$"):
        hand_over(deployment, replace(RECORD, xml=b"<Experiment>rebuilt</Experiment>"))
    assert everything(deployment) == before


def test_the_instrument_and_the_session_of_another_builder_become_known(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        instrument = sessions.get_instrument(connection, INSTRUMENT)
        [session] = sessions.sessions(connection)
    assert instrument == InstrumentRow(INSTRUMENT, None, None, None, "America/New_York")
    assert session == SessionRow(
        SESSION, INSTRUMENT, RECORD.dt_from, RECORD.dt_to, "jsmith", SessionStatus.BUILT_NOT_EXPORTED
    )


def test_a_known_instrument_is_left_as_it_is(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    known = InstrumentRow(INSTRUMENT, "FEI Titan", "Room 7", "Titan", "Europe/Berlin")
    with transaction(deployment.engine) as connection:
        sessions.add_instrument(connection, known)
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        assert sessions.instruments(connection) == [known]


def test_a_session_of_another_instrument_is_refused(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    with transaction(deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow("Talos", None, None, None, "UTC"))
        sessions.add_session(
            connection, SessionRow(SESSION, "Talos", START, START, "jsmith", SessionStatus.TO_BE_BUILT)
        )
    with pytest.raises(EnqueueError, match=rf"^Session {SESSION} belongs to instrument Talos, not to {INSTRUMENT}\.$"):
        hand_over(deployment)
    assert status_of(deployment) is SessionStatus.TO_BE_BUILT
    assert everything(deployment)["record"] == []


def test_a_time_zone_that_does_not_exist_is_refused(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    with pytest.raises(EnqueueError, match="Mars/Olympus"):
        hand_over(deployment, replace(RECORD, timezone="Mars/Olympus"))


def test_the_records_before_one_that_is_refused_are_sent_all_the_same(deploy: Deploy, broker_url: str) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    other = replace(RECORD, session_identifier="other")
    with pytest.raises(EnqueueError):
        hand_over(deployment, other, replace(RECORD, xml=b"<Experiment>rebuilt</Experiment>"))
    assert status_of(deployment, "other") is SessionStatus.BUILT_NOT_EXPORTED
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 2}


def test_a_builder_that_lost_its_claim_is_refused_and_leaves_nothing(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    with pytest.raises(ClaimLostError, match=SESSION):
        hand_over(deployment, replace(RECORD, claim=uuid4()))
    assert everything(deployment)["record"] == []


def test_a_claim_is_given_back_with_the_record(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    with transaction(deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow(INSTRUMENT, None, None, None, "UTC"))
        sessions.add_session(
            connection, SessionRow(SESSION, INSTRUMENT, START, START, "jsmith", SessionStatus.TO_BE_BUILT)
        )
        claimed = sessions.claim(connection, None, timedelta(minutes=5))
    assert claimed is not None
    hand_over(deployment, replace(RECORD, claim=claimed[1]))
    with transaction(deployment.engine) as connection:
        assert not sessions.release(connection, SESSION, claimed[1])


def test_destinations_in_a_circle_are_refused_before_anything_is_written(deploy: Deploy) -> None:
    deployment = deploy(cdcs(depends_on=("elabftw",)), elabftw())
    with pytest.raises(DependencyCycleError):
        hand_over(deployment)
    assert everything(deployment)["record"] == []


# --- the broker is away


@pytest.mark.parametrize("first_stage", [("cdcs",), ("cdcs", "elabftw")])
def test_without_a_broker_nothing_is_lost_and_a_later_dispatch_sends_it(
    deploy: Deploy, broker_url: str, closed_port: int, first_stage: Sequence[str]
) -> None:
    destinations = [cdcs(), elabftw(depends_on=() if len(first_stage) == 2 else ("cdcs",))]
    away = deploy(*destinations, NX_BROKER_URL=f"redis://:s3cret@127.0.0.1:{closed_port}/0")
    started = time.monotonic()
    handed_over = hand_over(away)
    assert time.monotonic() - started < MOST_SECONDS_WITHOUT_BROKER
    assert handed_over.record_ids == (1,)
    problem = handed_over.broker_problem
    assert problem is not None
    assert "NX_BROKER_URL" in problem
    assert "Nothing is lost" in problem
    assert "s3cret" not in problem
    assert "\n" not in problem
    assert set(states_of(away).values()) == {DeliveryState.PENDING}
    assert {(row.state, row.run_state) for row in attempts_of(away)} == {(AttemptState.UNSENT, RunState.CLOSED)}

    back = deploy(*destinations)
    assert dispatch(back.app, back.engine) == 1
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 1}
    assert work(back, "cdcs", "elabftw").record_status is SessionStatus.COMPLETED


def test_without_a_broker_every_record_of_a_batch_is_kept(deploy: Deploy, broker_url: str, closed_port: int) -> None:
    batch = [replace(RECORD, session_identifier=f"session-{number}") for number in range(5)]
    away = deploy(cdcs(), NX_BROKER_URL=f"redis://127.0.0.1:{closed_port}/0")
    started = time.monotonic()
    assert hand_over(away, *batch).broker_problem
    assert time.monotonic() - started < MOST_SECONDS_WITHOUT_BROKER
    back = deploy(cdcs())
    assert dispatch(back.app, back.engine) == 5
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 5}


def test_a_window_bounds_what_is_sent_and_the_next_dispatch_sends_the_next(deploy: Deploy) -> None:
    deployment = deploy(cdcs(window=2))
    hand_over(deployment, *(replace(RECORD, session_identifier=f"session-{number}") for number in range(3)))
    assert [len(attempts_of(deployment, record_id)) for record_id in (1, 2, 3)] == [1, 1, 0]
    assert dispatch(deployment.app, deployment.engine) == 0
    work(deployment, "cdcs", record_id=1)
    assert dispatch(deployment.app, deployment.engine) == 1
    assert [len(attempts_of(deployment, record_id)) for record_id in (1, 2, 3)] == [1, 1, 1]


def test_planners_at_once_send_each_record_once(deploy: Deploy, broker_url: str, closed_port: int) -> None:
    batch = [replace(RECORD, session_identifier=f"session-{number}") for number in range(10)]
    hand_over(deploy(cdcs(), NX_BROKER_URL=f"redis://127.0.0.1:{closed_port}/0"), *batch)
    deployment = deploy(cdcs())
    together = threading.Barrier(4)

    def dispatch_together(_: int) -> int:
        together.wait(10)
        return dispatch(deployment.app, deployment.engine)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(dispatch_together, range(4))) == 10
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 10}


# --- settling


def test_a_record_that_every_destination_holds_is_completed(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    assert work(deployment, "cdcs", "elabftw") == Settled(
        SESSION, SessionStatus.COMPLETED, {"cdcs": "succeeded", "elabftw": "succeeded"}
    )
    assert log_of(deployment) == [("cdcs", 1), ("elabftw", 1)]


def test_settling_again_changes_nothing(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(answer=raising(TransientError("away"))))
    hand_over(deployment)
    first = work(deployment, "cdcs", "elabftw")
    before = everything(deployment)
    assert settle(deployment.engine, 1) == first
    assert everything(deployment) == before
    assert log_of(deployment) == [("cdcs", 1), ("elabftw", 0)]


def test_settling_twice_at_once_is_as_good_as_once(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(depends_on=()), Fake("mirror", 10), NX_EXPORT_STRATEGY="first_success")
    hand_over(deployment)
    try_once(deployment, "cdcs")
    together = threading.Barrier(2)

    def settle_together(_: int) -> Settled:
        together.wait(10)
        return settle(deployment.engine, 1)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(settle_together, range(2))
    assert first == second
    assert first.record_status is SessionStatus.COMPLETED
    assert log_of(deployment) == [("cdcs", 1)]


def test_a_run_is_open_until_all_its_attempts_have_ended(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    work(deployment, "cdcs")
    assert {row.run_state for row in attempts_of(deployment)} == {RunState.OPEN}
    work(deployment, "elabftw")
    assert {row.run_state for row in attempts_of(deployment)} == {RunState.CLOSED}


@pytest.mark.parametrize(
    ("strategy", "status"),
    [
        ("all", SessionStatus.BUILT_NOT_EXPORTED),
        ("best_effort", SessionStatus.COMPLETED),
    ],
)
def test_the_strategy_says_what_a_failure_amounts_to(deploy: Deploy, strategy: str, status: SessionStatus) -> None:
    deployment = deploy(cdcs(), elabftw(answer=raising(PermanentError("no"))), NX_EXPORT_STRATEGY=strategy)
    hand_over(deployment)
    assert work(deployment, "cdcs", "elabftw").record_status is status


def test_the_strategy_is_the_one_of_the_hand_over(deploy: Deploy) -> None:
    failing = elabftw(answer=raising(PermanentError("no")))
    hand_over(deploy(cdcs(), failing, NX_EXPORT_STRATEGY="all"))
    later = deploy(cdcs(), failing, NX_EXPORT_STRATEGY="best_effort")
    assert work(later, "cdcs", "elabftw").record_status is SessionStatus.BUILT_NOT_EXPORTED


def test_first_success_skips_the_rest_and_says_why(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(), NX_EXPORT_STRATEGY="first_success")
    hand_over(deployment)
    assert [row.destination for row in attempts_of(deployment)] == ["cdcs"]
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    elab = rows_of(deployment)["elabftw"]
    assert (elab.state, elab.error_message) == (DeliveryState.SKIPPED, "cdcs holds the record already")
    assert dispatch(deployment.app, deployment.engine) == 0


@pytest.mark.parametrize("error", [PermanentError("no"), TransientError("away")])
def test_first_success_goes_on_to_the_next_after_a_failure(deploy: Deploy, error: ExportError) -> None:
    deployment = deploy(cdcs(answer=raising(error)), elabftw(), NX_EXPORT_STRATEGY="first_success")
    hand_over(deployment)
    assert work(deployment, "cdcs").record_status is SessionStatus.BUILT_NOT_EXPORTED
    assert dispatch(deployment.app, deployment.engine) == 1
    assert work(deployment, "elabftw").record_status is SessionStatus.COMPLETED
    assert log_of(deployment) == [("cdcs", 0), ("elabftw", 1)]


def test_what_requires_a_failed_destination_is_skipped_with_the_reason(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=raising(PermanentError("not valid"))), elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    assert try_once(deployment, "cdcs")["state"] == "permanent"
    assert try_once(deployment, "elabftw")["state"] == "deferred"
    settle(deployment.engine, 1)
    elab = rows_of(deployment)["elabftw"]
    assert elab.state is DeliveryState.SKIPPED
    assert elab.error_message == "it requires cdcs, which does not hold the record"
    assert log_of(deployment) == [("cdcs", 0)]


def test_what_requires_a_destination_that_is_tried_again_follows_it_in_the_next_run(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(TransientError("away")))
    deployment = deploy(plugin, elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    assert states_of(deployment) == {"cdcs": DeliveryState.WAITING, "elabftw": DeliveryState.PENDING}
    assert dispatch(deployment.app, deployment.engine) == 0
    plugin.answer = None
    assert work_again(deployment, "cdcs", "elabftw").record_status is SessionStatus.COMPLETED


def test_what_requires_a_destination_that_is_not_enabled_is_skipped_at_once(deploy: Deploy) -> None:
    deployment = deploy(elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    assert states_of(deployment) == {"elabftw": DeliveryState.SKIPPED}
    assert attempts_of(deployment) == []


@pytest.mark.parametrize("strategy", ["all", "first_success", "best_effort"])
def test_a_record_without_destinations_is_never_satisfied(deploy: Deploy, strategy: str) -> None:
    deployment = deploy(cdcs(enabled=False), NX_EXPORT_STRATEGY=strategy)
    assert hand_over(deployment) == HandedOver(record_ids=(1,), destinations=())
    assert settle(deployment.engine, 1) == Settled(SESSION, SessionStatus.BUILT_NOT_EXPORTED, {})
    assert archive.sweep(deployment.engine, deployment.settings) == 0


# --- archiving


def test_a_document_is_archived_once_everything_is_settled(deploy: Deploy, tmp_path: Path) -> None:
    deployment = deploy(cdcs(), elabftw(answer=raising(TransientError("away"))), NX_EXPORT_STRATEGY="best_effort")
    hand_over(deployment)
    assert work(deployment, "cdcs", "elabftw").record_status is SessionStatus.COMPLETED
    assert archive.sweep(deployment.engine, deployment.settings) == 0  # eLabFTW is still to come
    deployment.registry.destinations[1].answer = None  # type: ignore[attr-defined]
    work_again(deployment, "elabftw")
    assert archive.sweep(deployment.engine, deployment.settings) == 1
    [document] = (tmp_path / "records").rglob("*.xml")
    assert document.parent == tmp_path / "records" / ARCHIVE_FOLDER
    assert archive.sweep(deployment.engine, deployment.settings) == 0
    assert document.is_file()


def test_a_record_that_is_not_satisfied_is_not_archived(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=raising(PermanentError("no"))))
    hand_over(deployment)
    work(deployment, "cdcs")
    assert archive.sweep(deployment.engine, deployment.settings) == 0


def test_a_sweep_that_died_after_the_move_is_made_up_for(deploy: Deploy, tmp_path: Path) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    work(deployment, "cdcs")
    archive.sweep(deployment.engine, deployment.settings)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE record SET archived_at = NULL"))  # as after a rollback
    assert archive.sweep(deployment.engine, deployment.settings) == 1
    assert len(list((tmp_path / "records" / ARCHIVE_FOLDER).glob("*.xml"))) == 1


def test_a_document_that_is_gone_does_not_keep_others_from_the_archive(
    deploy: Deploy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment, RECORD, replace(RECORD, session_identifier="other"))
    work(deployment, "cdcs", record_id=1)
    work(deployment, "cdcs", record_id=2)
    with transaction(deployment.engine) as connection:
        document = records.get(connection, 1).document
    (tmp_path / "records" / document).unlink()
    assert archive.sweep(deployment.engine, deployment.settings) == 1
    assert SESSION in caplog.text
    assert document in caplog.text


# --- attempts


def test_a_destination_gets_the_record_with_its_times_files_and_links(deploy: Deploy, tmp_path: Path) -> None:
    deployment = deploy(cdcs(), elabftw(), NX_INSTRUMENT_DATA_PATH="/instruments")
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    [first] = deployment.registry.destinations[0].contexts  # type: ignore[attr-defined]
    [second] = deployment.registry.destinations[1].contexts  # type: ignore[attr-defined]
    assert first.xml_file_path.read_bytes() == RECORD.xml
    assert (first.session_identifier, first.instrument_pid, first.user) == (SESSION, INSTRUMENT, "jsmith")
    assert first.dt_from.isoformat() == "2025-01-27T10:30:15-05:00"
    assert first.dt_to == RECORD.dt_to
    [activity] = first.activities
    assert (activity.files, activity.previews) == ((Path("/instruments/Titan/a.dm3"),), (None,))
    assert first.get_result("cdcs") is None
    assert second.has_successful_export("cdcs")
    assert second.get_result("cdcs").record_url == "https://cdcs.example.org/7"


def test_a_dependency_that_failed_gives_no_result(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=raising(TransientError("away"))), elabftw())
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    [context] = deployment.registry.destinations[1].contexts  # type: ignore[attr-defined]
    assert context.get_result("cdcs") is None


def test_a_redelivered_message_of_an_ended_attempt_returns_the_stored_result(deploy: Deploy) -> None:
    plugin = cdcs()
    deployment = deploy(plugin, elabftw())
    hand_over(deployment)
    attempt_id = open_attempt(deployment, "cdcs")
    result = try_once(deployment, "cdcs")
    assert result == {
        "destination": "cdcs",
        "state": "succeeded",
        "record_id": "7",
        "record_url": "https://cdcs.example.org/7",
        "error_message": None,
    }
    assert attempt.begin(deployment.engine, attempt_id) == result
    late = TransientError("the first worker comes back late")
    assert attempt.finish(deployment.engine, attempt_id, deployment.settings, late) == (result, False)
    assert states_of(deployment)["cdcs"] is DeliveryState.SUCCEEDED
    assert len(plugin.contexts) == 1


def test_a_message_of_a_closed_run_is_not_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    attempt_id = open_attempt(deployment, "cdcs")
    work(deployment, "cdcs")
    with pytest.raises(NotWantedError):
        attempt.begin(deployment.engine, attempt_id)


def test_a_message_of_a_run_that_counts_as_not_sent_is_not_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    attempt_id = open_attempt(deployment, "cdcs")
    with transaction(deployment.engine) as connection:
        runs.not_sent(connection, 1)
    with pytest.raises(NotWantedError):
        attempt.begin(deployment.engine, attempt_id)
    assert states_of(deployment) == {"cdcs": DeliveryState.PENDING}


def test_a_message_of_an_attempt_that_does_not_exist_is_not_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    with pytest.raises(NotWantedError):
        attempt.begin(deployment.engine, 4711)


def test_a_delivery_that_is_settled_meanwhile_is_not_tried(deploy: Deploy) -> None:
    plugin = cdcs()
    deployment = deploy(plugin)
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE delivery SET state = 'failed'"))
    assert try_once(deployment, "cdcs")["state"] == "skipped"
    assert plugin.contexts == []
    assert states_of(deployment) == {"cdcs": DeliveryState.FAILED}


def break_document(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "changed":
        path.write_bytes(b"<Experiment>tampered</Experiment>")
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["gone", "changed", "unreadable"])
def test_nothing_is_sent_while_the_document_is_not_what_was_built(deploy: Deploy, tmp_path: Path, how: str) -> None:
    plugin = cdcs()
    deployment = deploy(plugin)
    hand_over(deployment)
    [document] = (tmp_path / "records").glob("*.xml")
    break_document(document, how)
    with pytest.raises(DocumentError, match=document.name):
        performed(deployment, plugin)
    work(deployment, "cdcs")
    row = rows_of(deployment)["cdcs"]
    assert plugin.contexts == []
    assert (row.state, row.failures) == (DeliveryState.WAITING, 1)
    assert row.error_message is not None
    assert document.name in row.error_message
    if document.is_dir():
        document.rmdir()
    document.write_bytes(RECORD.xml)
    assert work_again(deployment, "cdcs").record_status is SessionStatus.COMPLETED


def test_transient_failures_count_up_to_the_most_and_then_the_delivery_fails(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(TransientError("CDCS is away")))
    deployment = deploy(plugin, NX_MAX_FAILURES=3, NX_RETRY_DELAYS="60,300")
    hand_over(deployment)
    work(deployment, "cdcs")
    first = rows_of(deployment)["cdcs"]
    assert (first.state, first.failures, first.error_message) == (DeliveryState.WAITING, 1, "CDCS is away")
    assert timedelta(seconds=50) < wait_of(deployment, "cdcs") <= timedelta(seconds=60)
    assert dispatch(deployment.app, deployment.engine) == 0
    work_again(deployment, "cdcs")
    assert timedelta(seconds=290) < wait_of(deployment, "cdcs") <= timedelta(seconds=300)
    work_again(deployment, "cdcs")
    last = rows_of(deployment)["cdcs"]
    assert (last.state, last.failures, last.next_attempt_at) == (DeliveryState.FAILED, 3, None)
    assert last.error_message == "given up after 3 failed attempts; the last one: CDCS is away"
    assert dispatch(deployment.app, deployment.engine) == 0
    assert log_of(deployment) == [("cdcs", 0)] * 3


def test_a_configuration_failure_waits_and_is_not_counted(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(ConfigurationError("CDCS refuses the token")))
    deployment = deploy(plugin, NX_MAX_FAILURES=1, NX_RETRY_DELAYS="60")
    hand_over(deployment)
    work(deployment, "cdcs")
    work_again(deployment, "cdcs")
    row = rows_of(deployment)["cdcs"]
    assert (row.state, row.failures, row.error_message) == (DeliveryState.WAITING, 0, "CDCS refuses the token")
    assert log_of(deployment) == [("cdcs", 0)] * 2
    plugin.answer = None
    assert work_again(deployment, "cdcs").record_status is SessionStatus.COMPLETED


def test_settings_that_are_not_valid_are_a_configuration_failure_before_any_call(deploy: Deploy) -> None:
    plugin = cdcs(valid=lambda: (False, "NX_CDCS_URL is wrong."))
    deployment = deploy(plugin)
    hand_over(deployment)
    with pytest.raises(ConfigurationError, match=r"^NX_CDCS_URL is wrong\.$"):
        performed(deployment, plugin)
    assert plugin.contexts == []


@pytest.mark.parametrize(("asked_for", "seconds"), [(30, 60), (600, 600)])
def test_what_the_service_asked_to_wait_counts_when_it_is_longer(
    deploy: Deploy, asked_for: float, seconds: float
) -> None:
    plugin = cdcs(answer=raising(TransientError("busy", retry_after=asked_for)))
    deployment = deploy(plugin, NX_RETRY_DELAYS="60")
    hand_over(deployment)
    work(deployment, "cdcs")
    assert timedelta(seconds=seconds - 10) < wait_of(deployment, "cdcs") <= timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (TransientError("away"), TransientError),
        (PermanentError("no"), PermanentError),
        (ConfigurationError("token"), ConfigurationError),
        (ConnectionResetError("reset"), TransientError),
        (TimeoutError("slow"), TransientError),
        (KeyError("id"), PermanentError),
        (RuntimeError("a mistake in the plugin"), PermanentError),
    ],
)
def test_whatever_a_plugin_raises_is_sorted(deploy: Deploy, raised: Exception, kind: type[ExportError]) -> None:
    plugin = cdcs(answer=raising(raised))
    deployment = deploy(plugin)
    hand_over(deployment)
    with pytest.raises(kind):
        performed(deployment, plugin)


def test_a_check_of_the_settings_that_raises_is_sorted_too(deploy: Deploy) -> None:
    def broken() -> tuple[bool, str | None]:
        raise RuntimeError("a mistake in the plugin")

    plugin = cdcs(valid=broken)
    deployment = deploy(plugin)
    hand_over(deployment)
    with pytest.raises(ExportError, match="cdcs"):
        performed(deployment, plugin)


@pytest.mark.parametrize("returned", [None, True, {"success": True}])
def test_a_plugin_that_returns_no_result_has_failed_for_good(deploy: Deploy, returned: object) -> None:
    plugin = cdcs(answer=lambda _: returned)
    deployment = deploy(plugin)
    hand_over(deployment)
    assert try_once(deployment, "cdcs")["state"] == "permanent"
    message = rows_of(deployment)["cdcs"].error_message
    assert message is not None
    assert "ExportResult" in message


@pytest.mark.parametrize("words", ["nul \x00 byte", "lone surrogate \ud800"])
def test_words_that_postgresql_cannot_hold_do_not_keep_an_attempt_from_ending(deploy: Deploy, words: str) -> None:
    deployment = deploy(cdcs(answer=raising(TransientError(words))))
    hand_over(deployment)
    assert try_once(deployment, "cdcs")["state"] == "transient"


@pytest.mark.parametrize("metadata", [{"at": START}, {"path": Path("x")}, {"words": "nul \x00 byte"}])
def test_metadata_that_is_no_json_does_not_undo_a_success(deploy: Deploy, metadata: dict[str, Any]) -> None:
    def answer(_: ExportContext) -> ExportResult:
        return ExportResult(success=True, destination_name="cdcs", record_id="7", metadata=metadata)

    deployment = deploy(cdcs(answer=answer))
    hand_over(deployment)
    assert try_once(deployment, "cdcs")["state"] == "succeeded"
    assert work(deployment).record_status is SessionStatus.COMPLETED


def test_what_a_try_has_created_is_known_to_the_next(deploy: Deploy) -> None:
    calls: list[str] = []

    def create() -> str:
        calls.append("create")
        return "7"

    def answer(context: ExportContext) -> ExportResult:
        record_id = context.checkpoint.create("record", create)
        if len(calls) == 1 and context.checkpoint.get("attachment") is None:
            context.checkpoint.create("attachment", lambda: "8")
            raise TransientError("away")
        return ExportResult(success=True, destination_name="cdcs", record_id=record_id)

    deployment = deploy(cdcs(answer=answer))
    hand_over(deployment)
    work(deployment, "cdcs")
    assert work_again(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert calls == ["create"]
    assert rows_of(deployment)["cdcs"].remote_record_id == "7"


def test_the_end_of_an_attempt_tells_when_it_has_made_room(deploy: Deploy) -> None:
    deployment = deploy(cdcs(window=1), elabftw(window=2))
    hand_over(deployment)
    made_room = {}
    for name in ("cdcs", "elabftw"):
        attempt_id = open_attempt(deployment, name)
        attempt.begin(deployment.engine, attempt_id)
        result = ExportResult(success=True, destination_name=name, record_id="7")
        _, made_room[name] = attempt.finish(deployment.engine, attempt_id, deployment.settings, result)
    assert made_room == {"cdcs": True, "elabftw": False}
