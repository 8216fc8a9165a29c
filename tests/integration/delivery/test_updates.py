"""Inputs that change after a delivery was brought to an end: late cross-links and rebuilt records."""

from dataclasses import replace
from datetime import timedelta

import pytest

from nexus_tasks.delivery import archive
from nexus_tasks.delivery.documents import sha256_of
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.exporters.base import PermanentError, TransientError
from nexus_tasks.states import DeliveryState, SessionStatus
from tests.integration.delivery.by_hand import (
    REBUILT,
    RECORD,
    SESSION,
    START,
    Deploy,
    attempts_of,
    cdcs,
    elabftw,
    everything,
    finish,
    go_on,
    hand_over,
    killed_after_commits,
    log_of,
    open_destinations,
    raising,
    send,
    started,
    states_of,
    status_of,
    success,
    work,
    work_again,
)

PENDING, WAITING = DeliveryState.PENDING, DeliveryState.RETRYING
SUCCEEDED, FAILED, SKIPPED = DeliveryState.SUCCEEDED, DeliveryState.FAILED, DeliveryState.SKIPPED


@pytest.mark.parametrize("updates", [True, False])
def test_a_late_link_makes_a_notebook_due_once_and_only_if_it_updates(deploy: Deploy, *, updates: bool) -> None:
    repository, notebook = cdcs(answer=raising(TransientError("away"))), elabftw(updates=updates)
    deployment = deploy(repository, notebook)
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    assert states_of(deployment) == {"cdcs": WAITING, "elabftw": SUCCEEDED}
    repository.answer = None
    work_again(deployment, "cdcs")
    assert states_of(deployment) == {"cdcs": SUCCEEDED, "elabftw": PENDING if updates else SUCCEEDED}
    assert status_of(deployment) is SessionStatus.COMPLETED
    if not updates:
        assert send(deployment) == 0
        return
    assert send(deployment) == 1
    assert open_destinations(deployment) == {"elabftw"}
    work(deployment, "elabftw")
    assert [context.has_successful_export("cdcs") for context in notebook.contexts] == [False, True]
    assert send(deployment) == 0
    assert states_of(deployment) == {"cdcs": SUCCEEDED, "elabftw": SUCCEEDED}


def test_a_link_that_came_in_the_same_run_makes_nothing_due(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    before = everything(deployment)
    reconcile(deployment.engine, 1)
    assert send(deployment) == 0
    assert everything(deployment) == before


@pytest.mark.parametrize("updates", [True, False])
def test_a_notebook_that_failed_without_the_link_is_tried_again_with_it(deploy: Deploy, *, updates: bool) -> None:
    repository = cdcs(answer=raising(TransientError("away")))
    notebook = elabftw(answer=raising(PermanentError("no link")), updates=updates)
    deployment = deploy(repository, notebook)
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    repository.answer = notebook.answer = None
    work_again(deployment, "cdcs")
    assert states_of(deployment) == {"cdcs": SUCCEEDED, "elabftw": PENDING}
    send(deployment)
    assert work(deployment, "elabftw").record_status is SessionStatus.COMPLETED


def test_a_failed_notebook_whose_inputs_are_the_same_is_left_alone(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=raising(PermanentError("no"))), elabftw(answer=raising(PermanentError("no"))))
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    reconcile(deployment.engine, 1)
    assert states_of(deployment) == {"cdcs": FAILED, "elabftw": FAILED}
    assert send(deployment) == 0


def test_a_rebuilt_record_is_brought_up_to_date_in_place(deploy: Deploy) -> None:
    repository, notebook = cdcs(), elabftw()
    deployment = deploy(repository, notebook)
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    archive.sweep(deployment.engine, deployment.settings)
    hand_over(deployment, REBUILT)
    assert status_of(deployment) is SessionStatus.COMPLETED
    assert open_destinations(deployment) == {"cdcs", "elabftw"}
    assert work(deployment, "cdcs", "elabftw").record_status is SessionStatus.COMPLETED
    for plugin in (repository, notebook):
        assert [context.metadata["sha256"] for context in plugin.contexts] == [
            sha256_of(RECORD.xml),
            sha256_of(REBUILT.xml),
        ]
        assert plugin.contexts[1].checkpoint is not plugin.contexts[0].checkpoint
    assert send(deployment) == 0
    assert archive.sweep(deployment.engine, deployment.settings) == 1


@pytest.mark.parametrize("commits", range(5))
def test_a_builder_that_is_killed_at_any_moment_loses_no_rebuild(deploy: Deploy, commits: int) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    work(deployment, "cdcs")
    with killed_after_commits(deployment, commits):
        hand_over(deployment, REBUILT)
    replaced = everything(deployment)["record"][0][8] == sha256_of(REBUILT.xml)
    send(deployment)  # beat's
    assert open_destinations(deployment) == ({"cdcs"} if replaced else set())


def test_what_was_corrected_about_a_session_goes_with_its_rebuilt_record(deploy: Deploy) -> None:
    repository = cdcs()
    deployment = deploy(repository)
    hand_over(deployment)
    work(deployment, "cdcs")
    later = START + timedelta(days=1)
    corrected = replace(REBUILT, user="corrected", dt_from=later, dt_to=later + timedelta(hours=1), timezone="UTC")
    hand_over(deployment, corrected)
    work(deployment, "cdcs")
    context = repository.contexts[1]
    assert (context.user, context.dt_from, context.dt_to) == ("corrected", corrected.dt_from, corrected.dt_to)
    assert str(context.dt_from.tzinfo) == "UTC"


def test_a_record_rebuilt_as_it_was_before_arrives_as_it_was_before(deploy: Deploy) -> None:
    repository = cdcs()
    deployment = deploy(repository)
    for built in (RECORD, REBUILT, RECORD):
        hand_over(deployment, built)
        work(deployment, "cdcs")
        archive.sweep(deployment.engine, deployment.settings)
    assert [context.metadata["sha256"] for context in repository.contexts] == [
        sha256_of(built.xml) for built in (RECORD, REBUILT, RECORD)
    ]


def test_a_destination_that_does_not_update_keeps_the_record_that_it_has(deploy: Deploy) -> None:
    deployment = deploy(cdcs(updates=False))
    hand_over(deployment)
    work(deployment, "cdcs")
    hand_over(deployment, REBUILT)
    assert states_of(deployment) == {"cdcs": SUCCEEDED}
    assert send(deployment) == 0


def test_a_record_rebuilt_while_a_worker_is_at_it_is_sent_again(deploy: Deploy) -> None:
    repository = cdcs()
    deployment = deploy(repository)
    hand_over(deployment)
    this = started(deployment, "cdcs")
    hand_over(deployment, REBUILT)
    go_on(deployment, this)
    reconcile(deployment.engine, 1)
    assert repository.contexts[0].metadata["sha256"] == sha256_of(RECORD.xml)
    assert states_of(deployment) == {"cdcs": PENDING}
    assert send(deployment) == 1
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert repository.contexts[1].metadata["sha256"] == sha256_of(REBUILT.xml)


def test_a_record_rebuilt_before_its_first_try_is_sent_once(deploy: Deploy) -> None:
    repository = cdcs()
    deployment = deploy(repository)
    hand_over(deployment)
    hand_over(deployment, REBUILT)
    work(deployment, "cdcs")
    assert send(deployment) == 0
    assert [context.metadata["sha256"] for context in repository.contexts] == [sha256_of(REBUILT.xml)]


def test_a_rebuilt_record_whose_update_fails_is_still_a_record_that_has_arrived(deploy: Deploy) -> None:
    repository = cdcs()
    deployment = deploy(repository, elabftw())
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    repository.answer = raising(PermanentError("locked"))
    hand_over(deployment, REBUILT)
    assert work(deployment, "cdcs", "elabftw").record_status is SessionStatus.COMPLETED
    assert states_of(deployment) == {"cdcs": FAILED, "elabftw": SUCCEEDED}
    assert log_of(deployment) == [("cdcs", 1), ("elabftw", 1), ("cdcs", 0), ("elabftw", 1)]


def test_under_first_success_a_rebuilt_record_goes_to_its_holder_and_nowhere_else(deploy: Deploy) -> None:
    repository = cdcs()
    deployment = deploy(repository, elabftw(), NX_EXPORT_STRATEGY="first_success")
    hand_over(deployment)
    work(deployment, "cdcs")
    hand_over(deployment, REBUILT)
    assert open_destinations(deployment) == {"cdcs"}
    work(deployment, "cdcs")
    assert states_of(deployment) == {"cdcs": SUCCEEDED, "elabftw": SKIPPED}
    assert repository.contexts[-1].metadata["sha256"] == sha256_of(REBUILT.xml)


def test_what_was_skipped_stays_so_when_its_record_is_rebuilt(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=raising(PermanentError("no"))), elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    assert states_of(deployment) == {"cdcs": FAILED, "elabftw": SKIPPED}
    hand_over(deployment, REBUILT)
    assert states_of(deployment) == {"cdcs": PENDING, "elabftw": SKIPPED}


def test_every_event_of_a_rebuilt_session_has_one_status(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    work(deployment, "cdcs")
    hand_over(deployment, REBUILT)
    statuses = {row[5] for row in everything(deployment)["session_log"] if row[1] == SESSION}
    assert statuses == {"COMPLETED"}
    assert len(attempts_of(deployment)) == 2


def test_a_late_end_with_old_inputs_is_followed_by_one_with_the_new_ones(deploy: Deploy) -> None:
    """The notebook began without the link; the link came while it was at it."""
    deployment = deploy(cdcs(depends_on=()), elabftw())
    hand_over(deployment)
    notebook = started(deployment, "elabftw")
    finish(deployment, started(deployment, "cdcs"), success("cdcs"))
    finish(deployment, notebook, success("elabftw"))
    reconcile(deployment.engine, 1)
    assert states_of(deployment) == {"cdcs": SUCCEEDED, "elabftw": PENDING}
