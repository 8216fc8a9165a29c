"""Retention: what goes, and that nothing is missed afterwards."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery import admin, archive
from nexus_tasks.delivery.documents import ARCHIVE_FOLDER
from nexus_tasks.delivery.prune import BATCH, Pruned, prune
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import PermanentError, TransientError
from nexus_tasks.monitoring.status import view
from nexus_tasks.states import SessionStatus
from tests.integration.delivery.by_hand import (
    RECORD,
    SESSION,
    Deploy,
    cdcs,
    elabftw,
    everything,
    hand_over,
    log_of,
    open_destinations,
    raising,
    records_to_export,
    send,
    status_of,
    try_once,
    work,
    work_again,
)

NOTHING = Pruned(0, 0, 0)


def pass_days(deployment: Deployment, days: int) -> None:
    """Have everything that is there be so many days old."""
    with transaction(deployment.engine) as connection:
        for column in ("run.closed_at", "run.created_at", "attempt.ended_at", "record.archived_at"):
            table, name = column.split(".")
            connection.execute(text(f"UPDATE {table} SET {name} = {name} - {days} * interval '1 day'"))


def count(deployment: Deployment, table: str) -> int:
    with transaction(deployment.engine) as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def exported(deployment: Deployment) -> None:
    """One record in CDCS, one run."""
    hand_over(deployment)
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED


def archived(deployment: Deployment) -> Path:
    """One record in CDCS, and its document in the archive folder."""
    exported(deployment)
    assert archive.sweep(deployment.engine, deployment.settings) == 1
    [document] = (deployment.settings.records_path / ARCHIVE_FOLDER).glob("*.xml")
    return document


def pruned(deployment: Deployment, *, dry_run: bool = False) -> Pruned:
    return prune(deployment.engine, deployment.settings, dry_run=dry_run)


# --- runs and attempts


def test_closed_runs_go_when_they_are_older_than_they_are_kept(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    exported(deployment)
    pass_days(deployment, 89)
    assert pruned(deployment) == NOTHING
    pass_days(deployment, 2)
    assert pruned(deployment) == Pruned(1, 1, 0)
    assert (count(deployment, "run"), count(deployment, "attempt")) == (0, 0)
    assert pruned(deployment) == NOTHING


def test_the_days_are_those_of_the_setting(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_KEEP_RUNS_DAYS="7")
    exported(deployment)
    pass_days(deployment, 8)
    assert pruned(deployment).runs == 1


def test_a_dry_run_counts_and_deletes_nothing(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_KEEP_ARCHIVED_DAYS="30")
    document = archived(deployment)
    pass_days(deployment, 100)
    before = everything(deployment)
    assert pruned(deployment, dry_run=True) == Pruned(1, 1, 1)
    assert everything(deployment) == before
    assert document.is_file()
    assert pruned(deployment) == Pruned(1, 1, 1)


def test_what_people_read_is_the_same_afterwards(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(TransientError("away")))
    deployment = deploy(plugin)
    hand_over(deployment)
    work(deployment, "cdcs")
    plugin.answer = None
    assert work_again(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    before = [item.document() for item in view(deployment.engine, deployment.settings)]
    log = log_of(deployment)
    assert before[0]["deliveries"][0]["attempts"] == len(log) == 2
    pass_days(deployment, 100)
    assert pruned(deployment) == Pruned(2, 2, 0)
    assert [item.document() for item in view(deployment.engine, deployment.settings)] == before
    assert log_of(deployment) == log
    reconcile(deployment.engine, 1)
    assert log_of(deployment) == log, "an answer was logged twice"
    assert status_of(deployment) is SessionStatus.COMPLETED


@pytest.mark.parametrize("error", [TransientError("away"), None], ids=["waits", "is on its way"])
def test_nothing_of_a_delivery_that_is_not_final_goes(deploy: Deploy, error: Exception | None) -> None:
    deployment = deploy(cdcs(), elabftw(answer=raising(error) if error else None))
    hand_over(deployment)
    try_once(deployment, "cdcs")
    if error:
        try_once(deployment, "elabftw")
    reconcile(deployment.engine, 1)
    pass_days(deployment, 1000)
    before = everything(deployment)
    assert pruned(deployment) == NOTHING
    assert everything(deployment) == before


def test_an_answer_that_is_not_in_the_log_yet_keeps_its_run(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    try_once(deployment, "cdcs")
    with transaction(deployment.engine) as connection:  # closed by a dispatch that died before it could reconcile
        connection.execute(text("UPDATE run SET state = 'lost', closed_at = now() - interval '1000 days'"))
    assert pruned(deployment) == NOTHING
    reconcile(deployment.engine, 1)
    assert pruned(deployment).runs == 1
    assert log_of(deployment) == [("cdcs", 1)]


def test_a_run_that_somebody_has_locked_goes_the_next_time(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    exported(deployment)
    pass_days(deployment, 100)
    with deployment.engine.begin() as other:
        other.execute(text("SELECT 1 FROM run FOR UPDATE"))
        assert pruned(deployment) == NOTHING
    assert pruned(deployment).runs == 1


def test_more_runs_than_a_batch_all_go(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    exported(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(
            text(
                "INSERT INTO run (record_id, token, state, expected_by, closed_at) "
                "SELECT 1, gen_random_uuid(), 'closed', now(), now() FROM generate_series(1, :more)"
            ),
            {"more": 2 * BATCH},
        )
    pass_days(deployment, 100)
    assert pruned(deployment).runs == 2 * BATCH + 1


Ask = Callable[[Deployment], object]


@pytest.mark.parametrize(
    ("ask", "due"),
    [
        (lambda deployment: admin.retry(deployment, [SESSION], destination="cdcs", recreate=True), {"cdcs"}),
        (lambda deployment: admin.backfill(deployment, "elabftw"), {"elabftw"}),
        (lambda deployment: hand_over(deployment, replace(RECORD, xml=b"<Experiment>rebuilt</Experiment>")), {"cdcs"}),
    ],
    ids=["retry", "backfill", "rebuild"],
)
def test_what_operators_ask_for_works_without_the_runs(deploy: Deploy, ask: Ask, due: set[str]) -> None:
    notebook = elabftw(enabled=False)
    deployment = deploy(cdcs(), notebook)
    archived(deployment)
    pass_days(deployment, 100)
    assert pruned(deployment).runs == 1
    notebook.enabled = True
    ask(deployment)
    assert open_destinations(deployment) >= due
    assert work(deployment, *due).record_status is SessionStatus.COMPLETED


def test_after_a_restore_the_looking_up_works_without_the_runs(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    for record in records_to_export(2):
        hand_over(deployment, record)
    work(deployment, "cdcs")
    pass_days(deployment, 100)
    assert pruned(deployment).runs == 1
    assert admin.after_restore(deployment) == 1
    send(deployment)
    assert work(deployment, "cdcs", record_id=2).record_status is SessionStatus.COMPLETED


# --- documents


def test_documents_are_kept_for_ever_unless_the_setting_says_otherwise(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    document = archived(deployment)
    pass_days(deployment, 10_000)
    assert pruned(deployment).documents == 0
    assert document.is_file()


def test_documents_that_every_destination_holds_go_when_the_setting_says_so(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_KEEP_ARCHIVED_DAYS="30")
    document = archived(deployment)
    pass_days(deployment, 29)
    assert pruned(deployment).documents == 0
    pass_days(deployment, 2)
    assert pruned(deployment).documents == 1
    assert not document.exists()
    assert pruned(deployment).documents == 0
    assert status_of(deployment) is SessionStatus.COMPLETED


def test_a_document_that_a_retry_would_need_stays(deploy: Deploy) -> None:
    deployment = deploy(
        cdcs(),
        elabftw(answer=raising(PermanentError("no"))),
        NX_KEEP_ARCHIVED_DAYS="30",
        NX_EXPORT_STRATEGY="best_effort",
    )
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    assert archive.sweep(deployment.engine, deployment.settings) == 1
    pass_days(deployment, 100)
    assert pruned(deployment).documents == 0


def test_a_document_that_is_not_archived_stays(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_KEEP_ARCHIVED_DAYS="1")
    exported(deployment)
    pass_days(deployment, 100)
    assert pruned(deployment).documents == 0
    assert len(list(deployment.settings.records_path.glob("*.xml"))) == 1


def test_a_record_whose_document_went_is_sent_again_after_a_rebuild(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_KEEP_ARCHIVED_DAYS="30")
    archived(deployment)
    pass_days(deployment, 100)
    assert pruned(deployment).documents == 1
    hand_over(deployment, replace(RECORD, xml=b"<Experiment>rebuilt</Experiment>"))
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert archive.sweep(deployment.engine, deployment.settings) == 1
