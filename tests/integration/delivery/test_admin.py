"""What operators ask for, and what they get: retry, abandon, backfill, a restored database."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery import admin
from nexus_tasks.delivery.admin import AdminError
from nexus_tasks.delivery.attempt import NotWantedError
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportContext, ExportResult, PermanentError, TransientError
from nexus_tasks.states import AttemptState, DeliveryState, SessionStatus
from tests.integration.delivery.by_hand import (
    REBUILT,
    SESSION,
    Deploy,
    attempt_states,
    cdcs,
    elabftw,
    everything,
    finish,
    go_on,
    hand_over,
    killed_after_commits,
    labarchives,
    log_of,
    message_for,
    open_destinations,
    raising,
    records_to_export,
    remote_of,
    rows_of,
    send,
    start_message,
    started,
    states_of,
    status_of,
    success,
    try_once,
    work,
    work_again,
)

PENDING, RETRYING = DeliveryState.PENDING, DeliveryState.RETRYING
SUCCEEDED, FAILED, SKIPPED = DeliveryState.SUCCEEDED, DeliveryState.FAILED, DeliveryState.SKIPPED


# --- retry


def test_retry_of_a_completed_session_makes_nothing_due(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    before = everything(deployment)
    assert admin.retry(deployment, [SESSION]) == 0
    assert admin.retry(deployment, None, only_failed=True) == 0
    assert everything(deployment) == before


def test_retry_sends_what_waits_now(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(TransientError("away")))
    deployment = deploy(plugin)
    hand_over(deployment)
    work(deployment, "cdcs")
    plugin.answer = None
    assert admin.retry(deployment, [SESSION]) == 1
    assert rows_of(deployment)["cdcs"].failures == 1
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED


def test_retry_forgets_the_failures_of_what_has_failed_for_good(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(TransientError("away")))
    deployment = deploy(plugin, NX_MAX_FAILURES=1)
    hand_over(deployment)
    work(deployment, "cdcs")
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE delivery SET deaths = 5"))
    assert admin.retry(deployment, [SESSION], only_failed=True) == 1
    row = rows_of(deployment)["cdcs"]
    assert (row.failures, row.deaths) == (0, 0)
    assert open_destinations(deployment) == {"cdcs"}


def test_retry_can_be_narrowed_to_a_session_a_destination_and_what_has_failed(deploy: Deploy) -> None:
    deployment = deploy(
        cdcs(answer=raising(TransientError("away"))), elabftw(answer=raising(PermanentError("no")), depends_on=())
    )
    hand_over(deployment, *records_to_export(2))
    for record_id in (1, 2):
        work(deployment, "cdcs", "elabftw", record_id=record_id)
    assert admin.retry(deployment, ["session-1"], destination="elabftw") == 1
    assert open_destinations(deployment, 1) == {"elabftw"}
    assert admin.retry(deployment, ["session-2"], only_failed=True) == 1
    assert open_destinations(deployment, 2) == {"elabftw"}


def test_retry_leaves_alone_what_was_skipped(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(), NX_EXPORT_STRATEGY="first_success")
    hand_over(deployment)
    work(deployment, "cdcs")
    assert admin.retry(deployment, [SESSION]) == 0
    assert states_of(deployment) == {"cdcs": SUCCEEDED, "elabftw": SKIPPED}


@pytest.mark.parametrize("failed", [True, False])
def test_retry_makes_nothing_due_that_the_strategy_does_not_want_any_more(deploy: Deploy, *, failed: bool) -> None:
    """Under first_success eLabFTW holds the record: CDCS, which refused it, is not asked again."""
    deployment = deploy(
        cdcs(answer=raising(PermanentError("no"))), elabftw(depends_on=()), NX_EXPORT_STRATEGY="first_success"
    )
    hand_over(deployment)
    work(deployment, "cdcs")
    send(deployment)
    work(deployment, "elabftw")
    before = everything(deployment)
    assert admin.retry(deployment, None if failed else [SESSION], only_failed=failed) == 0
    assert everything(deployment) == before


@pytest.mark.parametrize(
    ("sessions", "narrowed"), [(None, {"only_failed": True}), ([SESSION], {}), ([SESSION], {"destination": "elabftw"})]
)
def test_retry_takes_up_what_was_skipped_for_a_reason_that_is_gone(
    deploy: Deploy, sessions: list[str] | None, narrowed: dict[str, Any]
) -> None:
    repository = cdcs(answer=raising(PermanentError("no")))
    deployment = deploy(repository, elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    repository.answer = None
    assert admin.retry(deployment, [SESSION], destination="elabftw") == 0  # it would be skipped again
    assert admin.retry(deployment, [SESSION], destination="cdcs") == 1
    work(deployment, "cdcs")
    assert states_of(deployment) == {"cdcs": SUCCEEDED, "elabftw": SKIPPED}
    assert admin.retry(deployment, sessions, **narrowed) == 1
    assert rows_of(deployment)["elabftw"].error_message is None
    assert work(deployment, "elabftw").record_status is SessionStatus.COMPLETED


def test_retry_of_what_has_failed_takes_along_what_was_skipped_because_of_it(deploy: Deploy) -> None:
    repository = cdcs(answer=raising(PermanentError("no")))
    second = labarchives(requires=("cdcs",), depends_on=())
    deployment = deploy(repository, second, elabftw(requires=("labarchives",), depends_on=()))
    hand_over(deployment)
    work(deployment, "cdcs", "labarchives", "elabftw")
    assert states_of(deployment) == {"cdcs": FAILED, "labarchives": SKIPPED, "elabftw": SKIPPED}
    repository.answer = None
    assert admin.retry(deployment, None, only_failed=True) == 3
    assert work(deployment, "cdcs", "labarchives", "elabftw").record_status is SessionStatus.COMPLETED


def test_retry_goes_through_more_records_than_it_takes_at_once(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "RECORDS_AT_ONCE", 2)
    deployment = deploy(cdcs(answer=raising(PermanentError("no"))))
    hand_over(deployment, *records_to_export(5))
    for record_id in range(1, 6):
        work(deployment, "cdcs", record_id=record_id)
    assert admin.retry(deployment, None, only_failed=True) == 5
    assert all(open_destinations(deployment, record_id) == {"cdcs"} for record_id in range(1, 6))


def test_retry_after_a_lost_answer_looks_up_before_it_creates(deploy: Deploy) -> None:
    made: list[str] = []

    def create() -> str:
        made.append("1")
        raise TransientError("504")

    def answer(context: ExportContext) -> ExportResult:
        return success("cdcs", context.checkpoint.create("record", create, find=lambda: "1"))

    deployment = deploy(cdcs(answer=answer), NX_MAX_FAILURES=1)
    hand_over(deployment)
    work(deployment, "cdcs")
    admin.retry(deployment, [SESSION])
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert made == ["1"]


@pytest.mark.parametrize("strategy", ["all", "first_success"])
def test_recreate_makes_the_object_again(deploy: Deploy, strategy: str) -> None:
    made: list[str] = []

    def create() -> str:
        made.append(str(len(made) + 1))
        return made[-1]

    plugin = cdcs(answer=lambda context: success("cdcs", context.checkpoint.create("record", create)))
    deployment = deploy(plugin, elabftw(), NX_EXPORT_STRATEGY=strategy)
    hand_over(deployment)
    work(deployment, *open_destinations(deployment))
    admin.retry(deployment, [SESSION], destination="cdcs", recreate=True)
    reconcile(deployment.engine, 1)  # somebody else's, before a worker has the message
    work(deployment, "cdcs")
    assert made == ["1", "2"]
    assert remote_of(deployment, "cdcs")["record"]["id"] == "2"
    assert states_of(deployment)["cdcs"] is SUCCEEDED
    assert status_of(deployment) is SessionStatus.COMPLETED


# --- abandon


def test_an_abandoned_delivery_has_failed_and_the_verdict_stands(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(answer=raising(TransientError("away"))), NX_EXPORT_STRATEGY="best_effort")
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    admin.abandon(deployment, SESSION, "elabftw")
    row = rows_of(deployment)["elabftw"]
    assert (row.state, row.error_message) == (FAILED, "Abandoned by an operator.")
    assert status_of(deployment) is SessionStatus.COMPLETED
    reconcile(deployment.engine, 1)
    assert send(deployment) == 0


def test_abandoning_what_others_require_skips_them(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=raising(TransientError("away"))), elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    admin.abandon(deployment, SESSION, "cdcs")
    assert states_of(deployment) == {"cdcs": FAILED, "elabftw": SKIPPED}


@pytest.mark.parametrize("commits", range(3))
def test_an_abandoning_that_is_killed_at_any_moment_leaves_nothing_that_nobody_reconciles(
    deploy: Deploy, commits: int
) -> None:
    deployment = deploy(cdcs(answer=raising(TransientError("away"))), elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    with killed_after_commits(deployment, commits):
        admin.abandon(deployment, SESSION, "cdcs")
    assert states_of(deployment) in (
        {"cdcs": RETRYING, "elabftw": PENDING},
        {"cdcs": FAILED, "elabftw": SKIPPED},
    )


def test_what_was_abandoned_stays_so_when_its_inputs_change_until_it_is_retried(deploy: Deploy) -> None:
    repository = cdcs(answer=raising(TransientError("away")))
    notebook = elabftw(answer=raising(TransientError("away")))
    deployment = deploy(repository, notebook)
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    admin.abandon(deployment, SESSION, "elabftw")
    repository.answer = notebook.answer = None
    work_again(deployment, "cdcs")
    hand_over(deployment, REBUILT)
    work(deployment, "cdcs")
    assert states_of(deployment) == {"cdcs": SUCCEEDED, "elabftw": FAILED}
    assert admin.retry(deployment, None, only_failed=True) == 0, "its session was not named"
    assert admin.retry(deployment, [SESSION]) == 1
    assert work(deployment, "elabftw").record_status is SessionStatus.COMPLETED


def test_abandoning_with_a_lost_answer_says_that_the_object_may_exist(deploy: Deploy) -> None:
    def lose_the_answer() -> str:
        raise TransientError("504")

    deployment = deploy(
        cdcs(answer=lambda context: success("cdcs", context.checkpoint.create("record", lose_the_answer)))
    )
    hand_over(deployment)
    work(deployment, "cdcs")
    admin.abandon(deployment, SESSION, "cdcs")
    message = rows_of(deployment)["cdcs"].error_message
    assert message is not None
    assert "may exist" in message


def test_what_was_abandoned_before_its_update_arrived_stays_abandoned(deploy: Deploy) -> None:
    """It held the record, was to be brought up to date, and the operator has given that up."""
    plugin = cdcs()
    deployment = deploy(plugin)
    hand_over(deployment)
    work(deployment, "cdcs")
    plugin.answer = raising(TransientError("away"))
    hand_over(deployment, REBUILT)
    work(deployment, "cdcs")
    admin.abandon(deployment, SESSION, "cdcs")
    assert states_of(deployment) == {"cdcs": FAILED}
    assert send(deployment) == 0


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (success("cdcs"), SUCCEEDED),
        (TransientError("away"), FAILED),
        (PermanentError("no"), FAILED),
    ],
)
def test_what_was_abandoned_while_a_worker_was_at_it_arrives_or_stays_abandoned(
    deploy: Deploy, outcome: ExportResult | TransientError | PermanentError, state: DeliveryState
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    this = started(deployment, "cdcs")
    admin.abandon(deployment, SESSION, "cdcs")
    finish(deployment, this, outcome)
    reconcile(deployment.engine, 1)
    assert states_of(deployment) == {"cdcs": state}
    assert send(deployment) == 0


def test_what_was_abandoned_before_a_worker_had_it_is_not_sent(deploy: Deploy) -> None:
    plugin = cdcs()
    deployment = deploy(plugin)
    hand_over(deployment)
    admin.abandon(deployment, SESSION, "cdcs")
    assert try_once(deployment, "cdcs")["state"] == "skipped"
    assert plugin.contexts == []


@pytest.mark.parametrize(
    ("session", "destination", "message"),
    [
        ("unknown", "cdcs", "Session unknown has no record"),
        (SESSION, "pigeon", "is not meant for pigeon"),
        (SESSION, "cdcs", "is succeeded already"),
    ],
)
def test_what_cannot_be_abandoned_is_refused_in_one_line(
    deploy: Deploy, session: str, destination: str, message: str
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    work(deployment, "cdcs")
    with pytest.raises(AdminError, match=message) as refused:
        admin.abandon(deployment, session, destination)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("command", [admin.pause, admin.resume])
def test_an_unknown_destination_is_refused_with_the_known_ones(
    deploy: Deploy, command: Callable[[Deployment, str], None]
) -> None:
    with pytest.raises(AdminError, match="there are cdcs, elabftw"):
        command(deploy(cdcs(), elabftw()), "pigeon")


# --- backfill


def test_backfill_sends_older_records_to_a_new_destination(deploy: Deploy) -> None:
    earlier = deploy(cdcs())
    hand_over(earlier, *records_to_export(2))
    work(earlier, "cdcs", record_id=1)
    deployment = deploy(cdcs(), elabftw())
    assert admin.backfill(deployment, "elabftw") == 2
    assert admin.backfill(deployment, "elabftw") == 0
    assert open_destinations(deployment, 1) == {"elabftw"}
    assert open_destinations(deployment, 2) == {"cdcs"}
    assert work(deployment, "elabftw", record_id=1).record_status is SessionStatus.COMPLETED
    [context] = deployment.registry.destinations[1].contexts  # type: ignore[attr-defined]
    assert context.has_successful_export("cdcs")


@pytest.mark.parametrize("commits", range(4))
def test_backfill_sends_nothing_that_the_strategy_does_not_want_not_even_when_it_is_killed(
    deploy: Deploy, commits: int
) -> None:
    earlier = deploy(cdcs(), NX_EXPORT_STRATEGY="first_success")
    hand_over(earlier)
    work(earlier, "cdcs")
    deployment = deploy(cdcs(), elabftw(depends_on=()))
    with killed_after_commits(deployment, commits):
        admin.backfill(deployment, "elabftw")
    assert send(deployment) == 0
    there = set(states_of(deployment)) == {"cdcs", "elabftw"}
    assert admin.backfill(deployment, "elabftw") == (0 if there else 1)
    row = rows_of(deployment)["elabftw"]
    assert (row.state, row.error_message) == (SKIPPED, "cdcs holds the record already")


def test_backfill_goes_through_more_records_than_it_takes_at_once(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "RECORDS_AT_ONCE", 2)
    hand_over(deploy(cdcs()), *records_to_export(5))
    deployment = deploy(cdcs(), elabftw())
    assert admin.backfill(deployment, "elabftw") == 5
    assert {tuple(states_of(deployment, record_id)) for record_id in range(1, 6)} == {("cdcs", "elabftw")}


def test_backfill_of_a_destination_that_is_not_enabled_is_refused(deploy: Deploy) -> None:
    with pytest.raises(AdminError, match="not enabled"):
        admin.backfill(deploy(cdcs(), elabftw(enabled=False)), "elabftw")


# --- a restored database


class Service:
    """Holds one object for each session, found by its identifier."""

    def __init__(self) -> None:
        self.objects: dict[str, list[str]] = {}

    def answer(self, context: ExportContext) -> ExportResult:
        held = self.objects.setdefault(context.session_identifier, [])

        def create() -> str:
            held.append(str(len(held) + 1))
            return held[-1]

        def find() -> str | None:
            return held[0] if held else None

        return success("cdcs", context.checkpoint.create("record", create, find=find))

    @property
    def doubled(self) -> list[str]:
        return [session for session, held in self.objects.items() if len(held) > 1]


TABLES = ("session_log", "record", "delivery", "run", "attempt", "destination", "upload_log")


def backup(deployment: Deployment) -> None:
    with transaction(deployment.engine) as connection:
        for table in TABLES:
            connection.exec_driver_sql(f"CREATE TABLE backup_{table} AS SELECT * FROM {table}")


def restore(deployment: Deployment) -> None:
    """Sequences start over too, as in a real backup: new rows get the ids of rows that are forgotten."""
    with transaction(deployment.engine) as connection:
        connection.exec_driver_sql(f"TRUNCATE {', '.join(TABLES)} CASCADE")
        for table in TABLES:
            connection.exec_driver_sql(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM backup_{table}")
        for table in TABLES:
            column = {"session_log": "id_session_log", "destination": None}.get(table, "id")
            if column:
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'),"
                    f" greatest((SELECT max({column}) FROM {table}), 1))"
                )


@pytest.fixture
def service() -> Service:
    return Service()


def test_after_a_restore_what_was_exported_since_is_looked_up_and_nothing_is_doubled(
    deploy: Deploy, service: Service
) -> None:
    deployment = deploy(cdcs(answer=service.answer))
    hand_over(deployment, *records_to_export(3))
    work(deployment, "cdcs", record_id=1)
    backup(deployment)
    for record_id in (2, 3):
        work(deployment, "cdcs", record_id=record_id)
    restore(deployment)
    assert admin.after_restore(deployment) == 2
    for record_id in (2, 3):
        assert work(deployment, "cdcs", record_id=record_id).record_status is SessionStatus.COMPLETED
    assert service.doubled == []
    assert states_of(deployment, 1) == {"cdcs": SUCCEEDED}


def test_after_a_restore_a_session_that_is_handed_over_again_is_looked_up_first(
    deploy: Deploy, service: Service
) -> None:
    deployment = deploy(cdcs(answer=service.answer))
    backup(deployment)
    hand_over(deployment)
    work(deployment, "cdcs")
    restore(deployment)
    admin.after_restore(deployment)
    [record_id] = hand_over(deployment).record_ids
    assert work(deployment, "cdcs", record_id=record_id).record_status is SessionStatus.COMPLETED
    assert service.doubled == []


@pytest.mark.parametrize("commits", range(3))
def test_a_call_after_a_restore_that_is_killed_and_made_again_reconciles_what_the_backup_knew(
    deploy: Deploy, commits: int
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    try_once(deployment, "cdcs")  # then the backup was made
    with killed_after_commits(deployment, commits):
        admin.after_restore(deployment)
    admin.after_restore(deployment)
    assert log_of(deployment) == [("cdcs", 1)]
    assert status_of(deployment) is SessionStatus.COMPLETED


def test_after_a_restore_an_old_message_finds_no_run(deploy: Deploy, service: Service) -> None:
    deployment = deploy(cdcs(answer=service.answer))
    hand_over(deployment)
    in_backup = message_for(deployment, "cdcs")
    backup(deployment)
    work(deployment, "cdcs")
    hand_over(deployment, REBUILT)
    after_backup = message_for(deployment, "cdcs")
    restore(deployment)
    admin.after_restore(deployment)
    new = message_for(deployment, "cdcs")
    assert new.attempt_id == after_backup.attempt_id
    for old in (in_backup, after_backup):
        with pytest.raises(NotWantedError):
            start_message(deployment, old)
    assert attempt_states(deployment) == [("cdcs", AttemptState.CANCELLED), ("cdcs", AttemptState.PLANNED)]
    go_on(deployment, started(deployment, "cdcs"))
    assert service.doubled == []


def test_after_a_restore_what_had_failed_in_the_backup_is_looked_up_when_it_is_retried(
    deploy: Deploy, service: Service
) -> None:
    """It may have been retried, and have arrived, after the backup."""
    plugin = cdcs(answer=raising(PermanentError("not valid")))
    deployment = deploy(plugin)
    hand_over(deployment)
    work(deployment, "cdcs")
    backup(deployment)
    plugin.answer = service.answer
    admin.retry(deployment, [SESSION])
    work(deployment, "cdcs")
    restore(deployment)
    admin.after_restore(deployment)
    admin.retry(deployment, [SESSION])
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert service.doubled == []


def test_after_a_restore_new_sessions_are_made_without_a_look(deploy: Deploy, service: Service) -> None:
    deployment = deploy(cdcs(answer=service.answer))
    admin.after_restore(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE restore SET restored_at = '2025-01-01T00:00:00Z'"))  # before the session
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        assert not connection.execute(text("SELECT look_up_first FROM delivery")).scalar_one()
