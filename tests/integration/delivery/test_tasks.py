"""The Celery tasks, run in this process: what they do between a message and the rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from sqlalchemy import text

from nexus_tasks import task_base
from nexus_tasks.db import destinations
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.delivery.documents import ARCHIVE_FOLDER
from nexus_tasks.delivery.rate_limit import RateLimitedError
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportContext, ExportResult, TransientError
from nexus_tasks.states import AttemptState, DeliveryState, RunState, SessionStatus
from tests.integration.delivery.by_hand import (
    SESSION,
    Deploy,
    Message,
    attempts_of,
    cdcs,
    die_in_try,
    elabftw,
    empty_broker,
    hand_over,
    labarchives,
    log_of,
    lose_open_runs,
    message_for,
    messages_in,
    pass_time,
    raising,
    records_to_export,
    rows_of,
    send,
    states_of,
    status_of,
    success,
)

WorkFor = Callable[[Deployment], Deployment]


@pytest.fixture
def work_for(monkeypatch: pytest.MonkeyPatch) -> WorkFor:
    """Have the tasks of this process belong to a deployment."""

    def at(deployment: Deployment) -> Deployment:
        monkeypatch.setattr(task_base, "deployment_of", lambda _: deployment)
        return deployment

    return at


def take(deployment: Deployment, message: Message, destination: str = "cdcs") -> Any:
    """What a worker makes of a message, Celery's own retries included, without their countdowns."""
    kwargs = {"attempt_id": message.attempt_id, "run": message.run, "session": SESSION}
    return deployment.app.tasks[f"export.{destination}"].apply(kwargs=kwargs)


@pytest.mark.parametrize("most", [1, 3, 5])
def test_a_worker_tries_as_often_as_the_settings_say_and_returns_the_failure(
    deploy: Deploy, work_for: WorkFor, most: int
) -> None:
    plugin = cdcs(answer=raising(TransientError("away")))
    deployment = work_for(deploy(plugin, NX_TRIES=most))
    hand_over(deployment)
    result = take(deployment, message_for(deployment, "cdcs"))
    assert result.result["state"] == "transient"
    assert len(plugin.contexts) == most
    [row] = attempts_of(deployment)
    assert (row.state, row.tries) == (AttemptState.TRANSIENT, most)
    assert rows_of(deployment)["cdcs"].failures == 1


def test_a_later_try_that_succeeds_is_a_success(deploy: Deploy, work_for: WorkFor) -> None:
    plugin = cdcs()

    def second_time(_: ExportContext) -> ExportResult:
        if len(plugin.contexts) < 2:
            raise TransientError("away")
        return success("cdcs")

    plugin.answer = second_time
    deployment = work_for(deploy(plugin))
    hand_over(deployment)
    assert take(deployment, message_for(deployment, "cdcs")).result["state"] == "succeeded"
    reconcile(deployment.engine, 1)
    assert log_of(deployment) == [("cdcs", 1)]


def test_a_database_that_is_away_during_a_try_is_nobodys_death(deploy: Deploy, work_for: WorkFor) -> None:
    plugin = cdcs()

    def seventh_time(_: ExportContext) -> ExportResult:
        if len(plugin.contexts) < 7:
            raise DatabaseError("it restarts")
        return success("cdcs")

    plugin.answer = seventh_time
    deployment = work_for(deploy(plugin))
    hand_over(deployment)
    assert take(deployment, message_for(deployment, "cdcs")).result["state"] == "succeeded"
    [row] = attempts_of(deployment)
    assert (row.state, row.deaths, row.tries) == (AttemptState.SUCCEEDED, 0, 1)


def test_a_try_may_wait_for_its_turn_any_number_of_times(deploy: Deploy, work_for: WorkFor) -> None:
    plugin = cdcs()

    def fortieth_time(_: ExportContext) -> ExportResult:
        if len(plugin.contexts) < 40:
            raise RateLimitedError("another caller holds the rate limit")
        return success("cdcs")

    plugin.answer = fortieth_time
    deployment = work_for(deploy(plugin))
    hand_over(deployment)
    assert take(deployment, message_for(deployment, "cdcs")).result["state"] == "succeeded"


def test_a_plugin_that_does_not_come_back_is_tried_again_later(deploy: Deploy, work_for: WorkFor) -> None:
    deployment = work_for(deploy(cdcs(answer=raising(SoftTimeLimitExceeded()))))
    hand_over(deployment)
    result = take(deployment, message_for(deployment, "cdcs")).result
    assert result["state"] == "transient"
    assert "did not return within 900 s" in result["error_message"]


def test_a_message_that_is_not_wanted_leaves_no_result(deploy: Deploy, work_for: WorkFor) -> None:
    deployment = work_for(deploy(cdcs()))
    hand_over(deployment)
    message = die_in_try(deployment, "cdcs")
    with pytest.raises(Ignore):
        deployment.app.tasks["export.cdcs"].run(attempt_id=message.attempt_id, run=message.run, session=SESSION)


def test_a_worker_that_lost_its_lease_leaves_no_result(deploy: Deploy, work_for: WorkFor) -> None:
    def answer(context: ExportContext) -> ExportResult:
        with transaction(deployment.engine) as connection:
            connection.execute(text("UPDATE attempt SET lease_token = gen_random_uuid()"))
        return success("cdcs", context.checkpoint.create("record", lambda: "1"))

    deployment = work_for(deploy(cdcs(answer=answer)))
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    with pytest.raises(Ignore):
        deployment.app.tasks["export.cdcs"].run(attempt_id=message.attempt_id, run=message.run, session=SESSION)


def test_a_task_that_ends_after_its_run_was_lost_leaves_the_next_run_alone(
    deploy: Deploy, work_for: WorkFor, broker_url: str
) -> None:
    """Who loses a run reconciles it in the same transaction: nothing is left for the task to make up for."""

    def answer(_: ExportContext) -> ExportResult:
        empty_broker(broker_url)
        lose_open_runs(deployment)
        assert send(deployment) == 1
        return success("cdcs")

    deployment = work_for(deploy(cdcs(answer=answer)))
    hand_over(deployment)
    assert take(deployment, message_for(deployment, "cdcs")).result == {}
    assert states_of(deployment) == {"cdcs": DeliveryState.PENDING}
    assert [(row.state, row.run_state) for row in attempts_of(deployment)] == [
        (AttemptState.EXPIRED, RunState.LOST),
        (AttemptState.PLANNED, RunState.OPEN),
    ]
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 1}
    assert log_of(deployment) == []


def test_the_end_of_an_attempt_at_a_full_destination_sends_the_next(
    deploy: Deploy, work_for: WorkFor, broker_url: str
) -> None:
    deployment = work_for(deploy(cdcs(window=1)))
    hand_over(deployment, *records_to_export(2))
    empty_broker(broker_url)
    take(deployment, message_for(deployment, "cdcs", 1))
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 1}
    message_for(deployment, "cdcs", 2)


def test_finalize_reconciles_archives_and_sends_what_is_due_next(deploy: Deploy, work_for: WorkFor) -> None:
    failing = cdcs(answer=raising(TransientError("away")))
    deployment = work_for(deploy(failing, elabftw(depends_on=()), NX_EXPORT_STRATEGY="first_success"))
    hand_over(deployment)
    take(deployment, message_for(deployment, "cdcs"))
    result = deployment.app.tasks["finalize"].apply(kwargs={"run_id": 1, "session": SESSION}).result
    assert result["deliveries"] == {"cdcs": "retrying", "elabftw": "pending"}
    take(deployment, message_for(deployment, "elabftw"), "elabftw")
    result = deployment.app.tasks["finalize"].apply(kwargs={"run_id": 2, "session": SESSION}).result
    assert result["record_status"] == "COMPLETED"
    with transaction(deployment.engine) as connection:
        assert connection.execute(text("SELECT archived_at FROM record")).scalar_one() is not None


def test_finalize_sends_what_is_due_next_although_a_document_cannot_be_moved(
    deploy: Deploy, work_for: WorkFor, broker_url: str, tmp_path: Path
) -> None:
    deployment = work_for(deploy(cdcs(window=1)))
    hand_over(deployment, *records_to_export(2))
    take(deployment, message_for(deployment, "cdcs", 1))
    empty_broker(broker_url)
    (tmp_path / "records" / ARCHIVE_FOLDER).write_text("no folder")
    finalized = deployment.app.tasks["finalize"].apply(kwargs={"run_id": 1, "session": "session-1"})
    assert finalized.result["record_status"] == "COMPLETED"
    message_for(deployment, "cdcs", 2)


def windows_of(deployment: Deployment) -> dict[str, int]:
    with transaction(deployment.engine) as connection:
        return {row.name: row.max_in_flight for row in destinations.all_rows(connection)}


def test_a_window_is_what_the_settings_of_the_workers_that_dispatch_say(deploy: Deploy, work_for: WorkFor) -> None:
    hand_over(deploy(cdcs(), elabftw(), NX_WINDOWS="cdcs=2"), *records_to_export(3))
    changed = work_for(deploy(cdcs(), elabftw(), labarchives(), NX_WINDOWS="cdcs=32,labarchives=3"))
    changed.app.tasks["dispatch"].apply()
    assert windows_of(changed) == {"cdcs": 32, "elabftw": 16}  # no record was ever sent to LabArchives
    assert messages_in(changed.settings.broker_url, "export.cdcs") == {"export.cdcs": 3}


def test_a_builder_that_knows_nothing_of_a_window_leaves_it_as_it_is(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_WINDOWS="cdcs=32")
    hand_over(deployment)
    builder = deploy(cdcs(), elabftw())
    hand_over(builder, *records_to_export(1))
    assert windows_of(builder) == {"cdcs": 32, "elabftw": 16}


def test_a_destination_that_this_worker_does_not_know_is_a_configuration_failure(
    deploy: Deploy, work_for: WorkFor
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    work_for(replace(deployment, registry=deploy(elabftw()).registry))
    assert take(deployment, message).result["state"] == "configuration"


def test_the_same_message_twice_makes_one_try_and_one_log_row(deploy: Deploy, work_for: WorkFor) -> None:
    plugin = cdcs()
    deployment = work_for(deploy(plugin))
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    assert take(deployment, message).result == take(deployment, message).result
    reconcile(deployment.engine, 1)
    assert len(plugin.contexts) == 1
    assert log_of(deployment) == [("cdcs", 1)]
    assert status_of(deployment) is SessionStatus.COMPLETED
    pass_time(deployment, 1000)
    assert send(deployment) == 0
