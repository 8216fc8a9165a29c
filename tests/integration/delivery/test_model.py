"""A model of the delivery: any order of events, deaths and lost answers, on real rows; hypothesis looks for a bad one.

Workers, broker and remote services are played here, with faults; planning, leases, intents and settling are the real
functions. After each step nothing is doubled or taken back; at the end, without faults, everything has arrived.
"""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from celery import Celery
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nexus_tasks.config import load_settings
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.delivery import admin, planner, rescuer
from nexus_tasks.delivery.attempt import Attempt, NotWantedError, Outcome
from nexus_tasks.delivery.canvas import OpenRun
from nexus_tasks.delivery.documents import sha256_of
from nexus_tasks.delivery.idempotency import NotYetResolvableError
from nexus_tasks.delivery.lease import LeaseLostError
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters import http
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportError,
    ExportResult,
    NothingDoneError,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.registry import Registry
from nexus_tasks.states import Strategy
from tests.integration.delivery.by_hand import (
    RECORD,
    Message,
    WorkerDiedError,
    finish,
    hand_over,
    pass_time,
    perform,
    schedule_retry,
    send,
    start_message,
    success,
)

EXAMPLES = 50  # the same in every run
EXAMPLES_VARIABLE = "NX_TEST_MODEL_EXAMPLES"  # so many others instead, other ones each time
STEPS = 30
LATEST_APPEARANCE_S = 80  # within deadline and grace, which make 90 s
ROUNDS_TO_REST = 60
TABLES = "session_log, record, delivery, run, attempt, destination, upload_log, restore"


@dataclass
class Held:
    """An object over there."""

    identifier: str
    content: str
    appears_at: float


@dataclass
class Service:
    """A remote system: what it holds of each session, and what goes wrong in the next call."""

    name: str
    priority: int
    depends_on: tuple[str, ...]
    window: int
    model: "Delivering"
    requires: tuple[str, ...] = ()
    updates: bool = True
    enabled: bool = True
    held: dict[str, list[Held]] = field(default_factory=dict)

    def validate_config(self) -> tuple[bool, str | None]:
        return True, None

    def export(self, context: ExportContext) -> ExportResult:
        content = self.wanted(context.metadata["sha256"], context.has_successful_export("cdcs"))
        held = self.held.setdefault(context.session_identifier, [])

        def create() -> str:
            return self.write(lambda: self.add(held, content))

        def find() -> str | None:
            found = next((item.identifier for item in held if item.appears_at <= self.model.now), None)
            if self.model.fault == "frozen in a look":
                self.model.another_worker_is_faster()
            return found

        identifier = context.checkpoint.create("record", create, find=find, content=content)
        if context.checkpoint.written("record") != content:
            self.write(lambda: self.change(held, identifier, content))
            context.checkpoint.wrote("record", content)
        return success(self.name, identifier)

    def wanted(self, sha256: str, linked: object) -> str:
        """What an object should say."""
        return f"{sha256}, linked" if linked and self.depends_on else sha256

    def write(self, change: Callable[[], str]) -> str:
        """One changing call, with the fault that is due."""
        if self.model.fault == "frozen before a call":
            self.model.another_worker_is_faster()
        check = http._before_call.get()
        assert check is not None
        check()
        fault, self.model.fault = self.model.fault, "none"
        if fault in BEFORE:
            raise_(BEFORE[fault])
        identifier = change()
        if fault == "frozen after a call":
            self.model.another_worker_is_faster()
        if fault in AFTER:
            raise_(AFTER[fault])
        return identifier

    def add(self, held: list[Held], content: str) -> str:
        late = LATEST_APPEARANCE_S if self.model.late else 0
        held.append(Held(f"{self.name}-{self.model.number()}", content, self.model.now + late))
        return held[-1].identifier

    def change(self, held: list[Held], identifier: str, content: str) -> str:
        [item] = [item for item in held if item.identifier == identifier]
        item.content = content
        return identifier


BEFORE: dict[str, Callable[[], BaseException]] = {
    "refused": lambda: NothingDoneError("not reached"),
    "dies before": WorkerDiedError,
    "permanent": lambda: PermanentError("not valid"),
    "configuration": lambda: ConfigurationError("wrong token"),
    "busy": lambda: NothingDoneError("429", retry_after=300),
}
AFTER: dict[str, Callable[[], BaseException]] = {
    "answer lost": lambda: TransientError("reset"),
    "dies after": WorkerDiedError,
    "bug": lambda: RuntimeError("a mistake in the plugin"),
}
FROZEN = ("frozen in a look", "frozen before a call", "frozen after a call")
FAULTS = st.sampled_from(["none", *FROZEN, *BEFORE, *AFTER])
ANY = st.integers(0, 1000)
RECORDS = st.integers(0, 1)


def raise_(make: Callable[[], BaseException]) -> NoReturn:
    raise make()


class Published:
    """What stands in for a canvas."""

    def __init__(self, model: "Delivering", run: OpenRun) -> None:
        self.model = model
        self.run = run

    def apply_async(self) -> None:
        for stage in self.run.stages:
            for destination, attempt_id in stage:
                self.model.messages.append((destination, Message(attempt_id, self.run.token)))
                self.model.queued.append((destination, attempt_id))


class Delivering(RuleBasedStateMachine):
    """One or two records, two or three destinations, and everything that can happen to them."""

    url: str
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.fault = "none"
        self.late = False
        self.numbers = iter(range(1, 10**9))
        self.messages: list[tuple[str, Message]] = []  # ever published: a broker may deliver any of them again
        self.queued: list[tuple[str, int]] = []  # not delivered yet
        self.tries: list[Attempt] = []  # workers that have begun
        self.outcomes: list[tuple[Attempt, Outcome]] = []  # workers that have an outcome to write down
        self.completed: set[str] = set()
        self.paused: set[str] = set()  # by an operator
        self.versions: dict[str, bytes] = {}
        self.deployment: Deployment
        CURRENT.append(self)

    def number(self) -> int:
        return next(self.numbers)

    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        pass_time(self.deployment, seconds, *{id(this): this for this in self.workers()}.values())

    def another_worker_is_faster(self) -> None:
        """The one in a call is stopped for so long that it is given up, and the next run is made meanwhile."""
        stopped, self.fault = self.busy, "none"
        self.time_passes(400)
        self.queued.clear()
        send(self.deployment)
        while self.queued:
            self.a_worker_gets_the_next_message(0)
            if self.tries:
                this = self.tries.pop()
                self.busy = [*stopped, this]
                self.end(this, self.outcome_without_fault(this))
        self.busy = stopped

    def outcome_without_fault(self, this: Attempt) -> Outcome:
        try:
            return perform(self.deployment, this)
        except (ExportError, NotYetResolvableError) as error:
            return error

    def workers(self) -> list[Attempt]:
        return [*self.tries, *(this for this, _ in self.outcomes), *self.busy]

    busy: "list[Attempt]" = []  # noqa: RUF012 - replaced, never changed

    # --- the beginning

    @initialize(records=st.integers(1, 2), notebooks=st.integers(1, 2), strategy=st.sampled_from(Strategy))
    def installation(self, records: int, notebooks: int, strategy: Strategy) -> None:
        services = [
            Service("cdcs", 100, (), 2, self),
            Service("labarchives", 90, ("cdcs",), 1, self),
            Service("elabftw", 85, ("cdcs",), 2, self),
        ][: 1 + notebooks]
        loaded = load_settings(
            NX_DATABASE_URL=self.url,
            NX_DATA_PATH=self.folder,
            NX_EXPORT_STRATEGY=strategy,
            NX_PAUSE_AFTER=2,
            NX_MAX_FAILURES=4,
        )
        engine = engine_for(self.url)
        with transaction(engine) as connection:
            connection.exec_driver_sql(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
        app = Celery("model", set_as_current=False)
        self.deployment = Deployment(loaded, engine, app, Registry(tuple(services)))
        for position in range(records):
            self.hand_over(position)

    # --- what happens

    def hand_over(self, position: int) -> None:
        session = f"session-{position}"
        self.versions[session] = f"<Experiment>{self.number()}</Experiment>".encode()
        hand_over(self.deployment, replace(RECORD, session_identifier=session, xml=self.versions[session]))

    @rule(position=RECORDS)
    def a_record_is_rebuilt(self, position: int) -> None:
        if f"session-{position}" in self.versions:
            self.hand_over(position)

    @rule()
    def dispatch_runs(self) -> None:
        send(self.deployment)

    @rule(position=RECORDS)
    def finalize_runs(self, position: int) -> None:
        if f"session-{position}" in self.versions:
            self.settle_session(f"session-{position}")
            send(self.deployment)

    @precondition(lambda self: self.queued)
    @rule(position=ANY)
    def a_worker_gets_the_next_message(self, position: int) -> None:
        _, attempt_id = self.queued[position % len(self.queued)]
        self.begin(next(message for _, message in self.messages if message.attempt_id == attempt_id))

    @precondition(lambda self: self.messages)
    @rule(position=ANY)
    def a_message_comes_again(self, position: int) -> None:
        self.begin(self.messages[position % len(self.messages)][1])

    def begin(self, message: Message) -> None:
        self.queued = [item for item in self.queued if item[1] != message.attempt_id]
        try:
            begun = start_message(self.deployment, message)
        except NotWantedError:
            return
        if isinstance(begun, Attempt):
            self.tries.append(begun)

    @precondition(lambda self: self.tries)
    @rule(position=ANY, fault=FAULTS, late=st.booleans(), then=st.sampled_from(["finish", "set aside", "tarry"]))
    def a_worker_goes_on(self, position: int, fault: str, then: str, *, late: bool) -> None:
        this = self.tries.pop(position % len(self.tries))
        outcome = self.outcome_of(this, fault, late=late)
        if outcome is None:
            return
        if then == "set aside" and isinstance(outcome, TransientError):
            schedule_retry(self.deployment, this, outcome)
            self.queued.append((this.row.destination, this.row.attempt_id))  # Celery's own retry
        elif then == "tarry":
            self.outcomes.append((this, outcome))
        else:
            self.end(this, outcome)

    @rule(fault=FAULTS, late=st.booleans(), then=st.sampled_from(["finish", "set aside", "tarry"]))
    def a_worker_does_all_that_it_can(self, fault: str, then: str, *, late: bool) -> None:
        """The next message, waiting for it if need be: most of what a hypothesis needs many steps for otherwise."""
        for seconds in (0, 130, 700):
            if not self.queued:
                self.time_passes(seconds)
                send(self.deployment)
        if self.queued:
            self.a_worker_gets_the_next_message(0)
        if self.tries:
            self.a_worker_goes_on(len(self.tries) - 1, fault, then, late=late)

    def outcome_of(self, this: Attempt, fault: str, *, late: bool) -> Outcome | None:
        """What a worker has to say, if it still can."""
        self.fault, self.late, self.busy = fault, late and fault in AFTER, [this]
        try:
            return perform(self.deployment, this)
        except (ExportError, NotYetResolvableError) as error:
            return error
        except (WorkerDiedError, LeaseLostError):
            return None
        finally:
            self.fault, self.late, self.busy = "none", False, []

    @precondition(lambda self: self.outcomes)
    @rule(position=ANY)
    def a_worker_that_tarried_finishes(self, position: int) -> None:
        self.end(*self.outcomes.pop(position % len(self.outcomes)))

    def end(self, this: Attempt, outcome: Outcome) -> None:
        finish(self.deployment, this, outcome)

    @rule(seconds=st.sampled_from([5, 31, 65, 95, 130, 700, 4000]))
    def time_goes_by(self, seconds: float) -> None:
        self.time_passes(seconds)

    @rule()
    def the_broker_loses_everything(self) -> None:
        self.queued.clear()

    @rule()
    def the_runs_are_overdue(self) -> None:
        """The rows say so; workers that hold a lease are not looked at, as after a jump of the clock."""
        with transaction(self.deployment.engine) as connection:
            connection.exec_driver_sql("UPDATE run SET expected_by = now() - interval '1 second' WHERE state = 'open'")

    @rule(failed=st.booleans())
    def an_operator_retries(self, *, failed: bool) -> None:
        admin.retry(self.deployment, None, only_failed=failed)

    @rule(session=RECORDS, position=ANY)
    def an_operator_abandons(self, session: int, position: int) -> None:
        if f"session-{session}" in self.versions:
            with suppress(admin.AdminError):  # it is settled already
                admin.abandon(self.deployment, f"session-{session}", self.service(position).name)

    @rule(position=ANY)
    def an_operator_pauses(self, position: int) -> None:
        admin.pause(self.deployment, self.service(position).name)
        self.paused.add(self.service(position).name)

    @rule(position=ANY)
    def an_operator_resumes(self, position: int) -> None:
        admin.resume(self.deployment, self.service(position).name)
        self.paused.discard(self.service(position).name)

    # --- what holds after every step

    @property
    def services(self) -> list[Service]:
        return [item for item in self.deployment.registry.destinations if isinstance(item, Service)]

    def service(self, position: int) -> Service:
        return self.services[position % len(self.services)]

    def settle_session(self, session: str) -> None:
        [(record_id,)] = self.rows(f"SELECT id FROM record WHERE session_identifier = '{session}'")
        reconcile(self.deployment.engine, record_id)

    def rows(self, query: str) -> list[Any]:
        with transaction(self.deployment.engine) as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    @invariant()
    def nothing_is_doubled(self) -> None:
        for service in self.services:
            for session, held in service.held.items():
                assert len(held) <= 1, f"{service.name} holds {session} {len(held)} times"

    @invariant()
    def a_record_has_one_open_run_and_a_destination_no_more_in_flight_than_it_may_have(self) -> None:
        """Probes and runs alone have tests of their own."""
        assert not self.rows("SELECT 1 FROM run WHERE state = 'open' GROUP BY record_id HAVING count(*) > 1")
        assert not self.rows(
            "SELECT name FROM destination WHERE destination.max_in_flight < (SELECT count(*) FROM attempt"
            " JOIN run ON run.id = run_id"
            " WHERE attempt.destination = name AND attempt.state IN ('planned', 'started') AND kind = 'normal')"
        )

    @invariant()
    def what_has_succeeded_is_there(self) -> None:
        for session, destination, identifier in self.rows(
            "SELECT session_identifier, destination, remote_record_id FROM delivery"
            " JOIN record ON record.id = record_id WHERE succeeded_at IS NOT NULL"
        ):
            [service] = [item for item in self.services if item.name == destination]
            assert [item.identifier for item in service.held[session]] == [identifier]

    @invariant()
    def completed_is_never_taken_back(self) -> None:
        now = {
            row[0] for row in self.rows("SELECT session_identifier FROM session_log WHERE record_status='COMPLETED'")
        }
        others = {
            row[0] for row in self.rows("SELECT session_identifier FROM session_log WHERE record_status!='COMPLETED'")
        }
        assert not now & others
        assert self.completed <= now
        self.completed = now

    @invariant()
    def the_log_has_a_row_for_each_answer_and_no_other(self) -> None:
        assert not self.rows(
            f"SELECT attempt_id FROM upload_log JOIN attempt ON attempt.id = attempt_id WHERE NOT ({LOGGED})"
        )
        assert not self.rows("SELECT attempt_id FROM upload_log GROUP BY attempt_id HAVING count(*) > 1")

    @invariant()
    def a_run_that_is_over_has_no_attempt_that_goes_on(self) -> None:
        """But one that was lost may have a message that nobody took yet."""
        assert not self.rows(
            "SELECT 1 FROM attempt JOIN run ON run.id = run_id WHERE run.state != 'open' AND attempt.state = 'started'"
            " OR run.state = 'closed' AND attempt.state = 'planned'"
        )

    # --- the end: no more faults

    def teardown(self) -> None:
        if not hasattr(self, "deployment"):
            return
        for this, outcome in self.outcomes:
            self.end(this, outcome)
        self.tries, self.outcomes = [], []  # the workers that were in a try have died
        for name in sorted(self.paused):  # whatever else is paused must come back by itself
            admin.resume(self.deployment, name)
        self.time_settles_everything()
        for _ in self.deployment.registry.destinations:  # one that was given up may make others due that wait for it
            if self.rows(GIVEN_UP):
                admin.retry(self.deployment, sorted(self.versions), only_failed=True)
                self.time_settles_everything()
        self.everything_has_arrived()

    def time_settles_everything(self) -> None:
        """Nobody helps: what is due or waits is tried and comes to its end, within half a day."""
        for _ in range(ROUNDS_TO_REST):
            self.work_through()
            if not self.rows(GOING_ON):
                return
            self.time_passes(700)
            self.queued.clear()
            send(self.deployment)
        raise AssertionError(f"waits for ever: {self.rows(GOING_ON)}, {self.rows(PAUSES)}")

    def work_through(self) -> None:
        """The workers take what there is, and finalize every run."""
        while self.queued:
            self.a_worker_gets_the_next_message(0)
            for this in self.tries:
                outcome = self.outcome_of(this, "none", late=False)
                if outcome is not None:
                    self.end(this, outcome)
            self.tries = []
            for session in self.versions:
                self.settle_session(session)
            send(self.deployment)

    def everything_has_arrived(self) -> None:
        self.completed_is_never_taken_back()
        assert self.completed == set(self.versions), self.rows(NOT_ARRIVED)
        arrived = {tuple(row) for row in self.rows(ARRIVED)}
        if self.deployment.settings.NX_EXPORT_STRATEGY is not Strategy.FIRST_SUCCESS:
            everywhere = {(session, service.name) for session in self.versions for service in self.services}
            assert arrived == everywhere, self.rows(NOT_ARRIVED)
        for service in self.services:
            for session, xml in self.versions.items():
                if (session, service.name) in arrived:
                    [held] = service.held[session]
                    assert held.content == service.wanted(sha256_of(xml), (session, "cdcs") in arrived)
        assert self.rows(f"{ARRIVED} AND jsonb_path_exists(remote, '$.*.unresolved_until')") == []
        logged = self.rows(f"SELECT id FROM attempt WHERE {LOGGED} ORDER BY id")
        assert self.rows("SELECT attempt_id FROM upload_log ORDER BY attempt_id") == logged


ARRIVED = (
    "SELECT session_identifier, destination FROM delivery JOIN record ON record.id = record_id"
    " WHERE state = 'succeeded'"
)
NOT_ARRIVED = (
    "SELECT session_identifier, destination, state, deaths, error_message FROM delivery"
    " JOIN record ON record.id = record_id WHERE state != 'succeeded'"
)
GIVEN_UP = (  # and still wanted by the strategy
    "SELECT delivery.id FROM delivery JOIN record ON record.id = record_id WHERE state = 'failed' AND (strategy !="
    " 'first_success' OR NOT EXISTS (SELECT 1 FROM delivery other WHERE other.record_id = record.id"
    " AND other.succeeded_at IS NOT NULL))"
)
GOING_ON = (
    "SELECT session_identifier, destination, delivery.state, next_attempt_at, deaths, delivery.error_message, run.state"
    " FROM record JOIN delivery ON delivery.record_id = record.id"
    " LEFT JOIN run ON run.record_id = record.id AND run.state = 'open'"
    " WHERE delivery.state IN ('pending', 'retrying') OR run.id IS NOT NULL"
)
PAUSES = "SELECT name, paused, opened_at, open_until, failing_records, reason, now() FROM destination"
LOGGED = (
    "(attempt.state IN ('succeeded', 'transient', 'permanent', 'configuration')"
    " OR attempt.state = 'expired' AND attempt.error_message IS NOT NULL)"
)
CURRENT: list[Delivering] = []


def queue_lengths(_: Celery, queues: Collection[str]) -> dict[str, int]:
    waiting = [f"export.{destination}" for destination, _ in CURRENT[-1].queued]
    return {queue: waiting.count(queue) for queue in queues}


@pytest.fixture
def _played_broker(monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(planner, "canvas", lambda _, run: Published(CURRENT[-1], run))
    monkeypatch.setattr(rescuer, "queue_lengths", queue_lengths)
    monkeypatch.setattr(Delivering, "url", database_url, raising=False)
    monkeypatch.setattr(Delivering, "folder", tmp_path, raising=False)
    yield
    CURRENT.clear()
    engine_for(database_url).dispose()


@pytest.mark.usefixtures("_played_broker")
def test_whatever_happens_in_whatever_order_every_record_arrives_once() -> None:
    wanted = os.environ.get(EXAMPLES_VARIABLE)
    run_state_machine_as_test(
        Delivering,
        settings=settings(
            max_examples=int(wanted or EXAMPLES),
            stateful_step_count=STEPS,
            derandomize=wanted is None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
