"""Nothing is made twice: what is committed before and after a creating call, and what the next try makes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Engine, TextClause

from nexus_tasks.db import attempts, patience
from nexus_tasks.db.engine import DatabaseError, execute, transaction
from nexus_tasks.delivery.attempt import Attempt
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
from nexus_tasks.states import AttemptState, DeliveryState, SessionStatus
from tests.integration.delivery.by_hand import (
    Deploy,
    WorkerDiedError,
    attempt_states,
    attempts_of,
    cdcs,
    finish,
    go_on,
    hand_over,
    log_of,
    message_for,
    pass_time,
    perform,
    remote_of,
    rows_of,
    schedule_retry,
    send,
    start_message,
    started,
    states_of,
    success,
    try_once,
    wait_of,
    work,
    work_again,
)

GRACE = 300  # seconds; much more than a lease, so that it can be over while the grace is not
UNRESOLVED = 60 + GRACE


@dataclass
class Remote:
    """A service that makes one object a call, and afterwards does what `then` says."""

    objects: list[str] = field(default_factory=list)
    visible: bool = True
    asked: int = 0
    then: Callable[[], None] = lambda: None

    def create(self) -> str:
        self.objects.append(str(len(self.objects) + 1))
        made = self.objects[-1]
        self.then()
        return made

    def find(self) -> str | None:
        self.asked += 1
        return self.objects[0] if self.visible and self.objects else None

    def raises(self, error: BaseException | None) -> None:
        def then() -> None:
            if error is not None:
                raise error

        self.then = then


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def deployment(deploy: Deploy, remote: Remote) -> Deployment:
    """CDCS, which makes one object, with one record on its way."""

    def answer(context: ExportContext) -> ExportResult:
        identifier = context.checkpoint.create("record", remote.create, find=remote.find, content="fingerprint")
        return success("cdcs", identifier)

    made = deploy(cdcs(answer=answer), NX_LOOKUP_GRACE=GRACE)
    hand_over(made)
    return made


def killed_in_call(deployment: Deployment, remote: Remote) -> None:
    """A worker is killed after the object was made; its message comes again, and the next run is planned."""
    remote.raises(WorkerDiedError())
    message = message_for(deployment, "cdcs")
    with pytest.raises(WorkerDiedError):
        perform(deployment, started(deployment, "cdcs"))
    remote.raises(None)
    pass_time(deployment, 91)
    start_message(deployment, message)
    reconcile(deployment.engine, 1)
    assert send(deployment) == 1


def test_the_intent_is_committed_before_the_call_and_the_identifier_with_the_end_of_the_attempt(
    deployment: Deployment, remote: Remote
) -> None:
    during: list[dict[str, Any]] = []
    remote.then = lambda: during.append(remote_of(deployment, "cdcs")["record"])
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert during[0].keys() == {"content", "unresolved_until"}
    assert remote_of(deployment, "cdcs") == {"record": {"id": "1", "content": "fingerprint"}}
    assert not rows_of(deployment)["cdcs"].unresolved


def test_an_object_whose_worker_was_killed_is_looked_up_and_adopted_with_its_content(
    deployment: Deployment, remote: Remote
) -> None:
    killed_in_call(deployment, remote)
    assert rows_of(deployment)["cdcs"].unresolved
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert remote.objects == ["1"]
    assert remote_of(deployment, "cdcs") == {"record": {"id": "1", "content": "fingerprint"}}
    assert rows_of(deployment)["cdcs"].remote_record_id == "1"


def test_an_object_that_is_not_seen_yet_is_not_made_again_before_the_grace_is_over(
    deployment: Deployment, remote: Remote
) -> None:
    killed_in_call(deployment, remote)
    remote.visible = False
    with pytest.raises(NotYetResolvableError) as early:
        perform(deployment, this := started(deployment, "cdcs"))
    finish(deployment, this, early.value)
    reconcile(deployment.engine, 1)
    assert remote.objects == ["1"]
    assert remote.asked == 1
    row = rows_of(deployment)["cdcs"]
    assert (row.state, row.failures) == (DeliveryState.RETRYING, 0)
    assert UNRESOLVED - 91 - 30 < wait_of(deployment, "cdcs").total_seconds() <= UNRESOLVED - 91
    assert attempt_states(deployment) == [("cdcs", AttemptState.EXPIRED), ("cdcs", AttemptState.DEFERRED)]
    assert log_of(deployment) == []
    remote.visible = True
    pass_time(deployment, UNRESOLVED - 91)
    assert work_again(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert remote.objects == ["1"]


def test_a_try_that_comes_too_early_ends_the_attempt_with_what_the_first_try_was_answered(
    deployment: Deployment, remote: Remote
) -> None:
    remote.raises(TransientError("the connection was reset"))
    this = started(deployment, "cdcs")
    with pytest.raises(TransientError) as failed:
        perform(deployment, this)
    schedule_retry(deployment, this, failed.value)
    remote.visible = False
    assert try_once(deployment, "cdcs")["state"] == "transient"
    reconcile(deployment.engine, 1)
    row = rows_of(deployment)["cdcs"]
    assert (row.state, row.failures) == (DeliveryState.RETRYING, 1)
    assert row.error_message == "the connection was reset"
    assert wait_of(deployment, "cdcs").total_seconds() > UNRESOLVED - 30
    assert log_of(deployment) == [("cdcs", 0)]
    assert remote.objects == ["1"]


def test_a_transient_failure_waits_until_its_object_can_be_looked_up(deployment: Deployment, remote: Remote) -> None:
    remote.raises(TransientError("504 Gateway Timeout"))
    work(deployment, "cdcs")
    assert UNRESOLVED - 30 < wait_of(deployment, "cdcs").total_seconds() <= UNRESOLVED


def test_an_object_that_is_not_there_after_the_grace_is_made_again(deployment: Deployment, remote: Remote) -> None:
    killed_in_call(deployment, remote)
    remote.objects.clear()
    pass_time(deployment, UNRESOLVED)
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert remote.asked == 1
    assert remote.objects == ["1"]


@pytest.mark.parametrize(
    "error", [NothingDoneError("refused"), PermanentError("not valid"), ConfigurationError("wrong token")]
)
def test_an_answer_that_nothing_was_made_closes_the_intent(
    deployment: Deployment, remote: Remote, error: ExportError
) -> None:
    remote.raises(error)
    work(deployment, "cdcs")
    assert not rows_of(deployment)["cdcs"].unresolved
    assert remote_of(deployment, "cdcs")["record"] == {}


@pytest.mark.parametrize("error", [TransientError("504"), ConnectionResetError(), TimeoutError(), RuntimeError("bug")])
def test_any_other_failure_of_the_call_leaves_the_intent_open(
    deployment: Deployment, remote: Remote, error: Exception
) -> None:
    remote.raises(error)
    work(deployment, "cdcs")
    assert rows_of(deployment)["cdcs"].unresolved


def test_a_delivery_given_up_with_an_open_intent_says_that_the_object_may_exist(deploy: Deploy, remote: Remote) -> None:
    remote.raises(TransientError("504"))
    plugin = cdcs(answer=lambda context: success("cdcs", context.checkpoint.create("record", remote.create)))
    deployment = deploy(plugin, NX_MAX_FAILURES=1)
    hand_over(deployment)
    work(deployment, "cdcs")
    row = rows_of(deployment)["cdcs"]
    assert row.state is DeliveryState.FAILED
    assert row.error_message is not None
    assert "may exist" in row.error_message


def test_a_delivery_that_fails_for_good_with_an_open_intent_says_that_the_object_may_exist(
    deployment: Deployment, remote: Remote
) -> None:
    remote.raises(RuntimeError("a mistake in the plugin"))
    work(deployment, "cdcs")
    row = rows_of(deployment)["cdcs"]
    assert (row.state, row.unresolved) == (DeliveryState.FAILED, True)
    assert row.error_message is not None
    assert "may exist" in row.error_message


def lose_the_lease(deployment: Deployment, this: Attempt) -> None:
    """The worker is stopped for so long that its message comes again, and another one finds its lease run out."""
    pass_time(deployment, 1000, this)
    start_message(deployment, message_for(deployment, "cdcs"))
    reconcile(deployment.engine, 1)


def test_a_worker_that_lost_its_lease_in_the_call_still_keeps_what_it_has_made(
    deployment: Deployment, remote: Remote
) -> None:
    this = started(deployment, "cdcs")
    remote.then = lambda: lose_the_lease(deployment, this)
    finish(deployment, this, perform(deployment, this))
    assert remote_of(deployment, "cdcs") == {"record": {"id": "1", "content": "fingerprint"}}
    assert states_of(deployment) == {"cdcs": DeliveryState.PENDING}
    remote.raises(None)
    assert send(deployment) == 1
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert remote.objects == ["1"]


def test_a_worker_that_comes_back_with_another_object_reports_it_and_the_first_one_stays(
    deployment: Deployment, remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    first = started(deployment, "cdcs")

    def another_one_was_faster() -> None:
        remote.raises(None)
        remote.visible = False
        lose_the_lease(deployment, first)
        assert send(deployment) == 1
        work(deployment, "cdcs")

    remote.then = another_one_was_faster
    late = perform(deployment, first)
    assert remote.objects == ["1", "2"]
    assert remote_of(deployment, "cdcs")["record"]["id"] == "2"
    finish(deployment, first, late)
    assert "created 1 although 2 was known already" in caplog.text
    assert remote_of(deployment, "cdcs")["record"]["id"] == "2"
    assert rows_of(deployment)["cdcs"].remote_record_id == "2"


@pytest.mark.parametrize("answered", [True, False])
def test_a_worker_that_was_given_up_forgets_nothing_that_another_one_wrote_down(
    deployment: Deployment, remote: Remote, answered: bool
) -> None:
    first = started(deployment, "cdcs")

    def another_one_is_faster() -> None:
        remote.raises(None if answered else TransientError("its answer was lost"))
        remote.objects.clear()
        lose_the_lease(deployment, first)
        assert send(deployment) == 1
        try_once(deployment, "cdcs")
        raise NothingDoneError("it never arrived")

    remote.then = another_one_is_faster
    with pytest.raises(NothingDoneError):
        perform(deployment, first)
    known = remote_of(deployment, "cdcs")["record"]
    assert known.get("id") == ("1" if answered else None)
    assert answered or "unresolved_until" in known


def test_calls_that_only_read_keep_the_lease(deploy: Deploy) -> None:
    def answer(context: ExportContext) -> ExportResult:
        for _ in range(4):
            before_reading = http._before_call.get()
            assert before_reading is not None
            before_reading()
            pass_time(made, 25, this)
        return success("cdcs", context.checkpoint.create("record", lambda: "1"))

    made = deploy(cdcs(answer=answer))
    hand_over(made)
    this = started(made, "cdcs")
    finish(made, this, perform(made, this))
    assert states_of(made) == {"cdcs": DeliveryState.SUCCEEDED}


def test_a_worker_that_has_lost_its_lease_makes_nothing(deployment: Deployment, remote: Remote) -> None:
    this = started(deployment, "cdcs")
    lose_the_lease(deployment, this)
    with pytest.raises(LeaseLostError):
        perform(deployment, this)
    assert remote.objects == []
    assert remote_of(deployment, "cdcs") == {}


def test_the_identifiers_of_earlier_calls_are_committed_with_the_intent_of_the_next(deploy: Deploy) -> None:
    before_second: list[dict[str, Any]] = []

    def second() -> str:
        before_second.append(remote_of(made, "cdcs"))
        return "8"

    def answer(context: ExportContext) -> ExportResult:
        context.checkpoint.create("record", lambda: "7", find=lambda: None)
        return success("cdcs", context.checkpoint.create("attachment", second, find=lambda: None))

    made = deploy(cdcs(answer=answer))
    hand_over(made)
    work(made, "cdcs")
    [known] = before_second
    assert known["record"] == {"id": "7", "content": None}
    assert "unresolved_until" in known["attachment"]
    assert remote_of(made, "cdcs")["attachment"]["id"] == "8"


@pytest.fixture
def database_goes_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Have the next three statements of an attempt fail."""
    refused: list[int] = []

    def away_at_first(engine: Engine, statement: TextClause, parameters: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if len(refused) < 3:
            refused.append(1)
            raise DatabaseError("the database is restarting")
        return execute(engine, statement, parameters)

    def goes_away() -> list[int]:
        monkeypatch.setattr(patience, "DATABASE_POLL_S", 0.01)
        monkeypatch.setattr(attempts, "execute", away_at_first)
        return refused

    return goes_away


def test_what_cannot_be_looked_up_is_kept_at_once_although_the_database_is_away_for_a_while(
    deploy: Deploy, remote: Remote, database_goes_away: Callable[[], list[int]]
) -> None:
    refused: list[int] = []
    known: list[dict[str, Any]] = []

    def answer(context: ExportContext) -> ExportResult:
        identifier = context.checkpoint.create("record", remote.create)
        known.append(remote_of(made, "cdcs")["record"])
        return success("cdcs", identifier)

    made = deploy(cdcs(answer=answer))
    hand_over(made)
    remote.then = lambda: refused.extend(database_goes_away())
    go_on(made, started(made, "cdcs"))
    assert known == [{"id": "1", "content": None}]
    assert states_of(made) == {"cdcs": DeliveryState.SUCCEEDED}


def test_an_end_is_written_although_the_database_is_away_for_a_while(
    deployment: Deployment, remote: Remote, database_goes_away: Callable[[], list[int]]
) -> None:
    remote.then = lambda: None
    this = started(deployment, "cdcs")
    outcome = perform(deployment, this)
    refused = database_goes_away()
    patience.patiently(lambda: finish(deployment, this, outcome))
    assert len(refused) == 3
    assert remote_of(deployment, "cdcs")["record"]["id"] == "1"
    assert states_of(deployment) == {"cdcs": DeliveryState.SUCCEEDED}


def test_an_intent_outlasts_a_longer_call_and_so_does_its_lease(deploy: Deploy) -> None:
    during: list[tuple[float, float]] = []

    def looked_at() -> str:
        with transaction(made.engine) as connection:
            row = connection.exec_driver_sql(
                "SELECT extract(epoch FROM lease_expires_at - now()),"
                " extract(epoch FROM (remote->'upload'->>'unresolved_until')::timestamptz - now())"
                " FROM attempt JOIN delivery ON delivery.id = delivery_id"
            ).one()
        during.append((float(row[0]), float(row[1])))
        return "1"

    def answer(context: ExportContext) -> ExportResult:
        context.checkpoint.create("upload", looked_at, seconds=1000)
        return success("cdcs")

    made = deploy(cdcs(answer=answer))
    hand_over(made)
    work(made, "cdcs")
    [(lease, intent)] = during
    assert 1000 < lease <= 1030
    assert 1000 < intent <= 1030


def test_what_a_lost_request_has_sent_is_known_to_the_next_try(deploy: Deploy, remote: Remote) -> None:
    seen: list[str | None] = []

    def answer(context: ExportContext) -> ExportResult:
        seen.append(context.checkpoint.written("record"))
        content = f"content {len(seen)}"
        return success("cdcs", context.checkpoint.create("record", remote.create, find=remote.find, content=content))

    deployment = deploy(cdcs(answer=answer), NX_LOOKUP_GRACE=GRACE)
    hand_over(deployment)
    killed_in_call(deployment, remote)
    work(deployment, "cdcs")
    assert seen == [None, "content 1"]


def test_what_was_written_in_place_is_remembered(deploy: Deploy) -> None:
    seen: list[str | None] = []

    def answer(context: ExportContext) -> ExportResult:
        context.checkpoint.create("page", lambda: "1", content="first")
        seen.append(context.checkpoint.written("page"))
        context.checkpoint.wrote("page", "second")
        seen.append(context.checkpoint.written("page"))
        return success("cdcs", str(context.checkpoint.get("page")))

    deployment = deploy(cdcs(answer=answer))
    hand_over(deployment)
    work(deployment, "cdcs")
    assert seen == ["first", "second"]
    assert remote_of(deployment, "cdcs") == {"page": {"id": "1", "content": "second"}}
    assert [row.tries for row in attempts_of(deployment)] == [1]
