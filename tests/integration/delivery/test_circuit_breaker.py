"""Destinations that are not well: pauses, deferred attempts, probes, and what goes on without them."""

import pytest
from sqlalchemy import text

from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery import admin, attempt
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ConfigurationError, ExportError, NothingDoneError, PermanentError, TransientError
from nexus_tasks.states import AttemptState, DeliveryState, RunKind, SessionStatus
from tests.integration.delivery.by_hand import (
    Deploy,
    Fake,
    attempt_states,
    attempts_of,
    breaker_of,
    cdcs,
    elabftw,
    finish,
    go_on,
    hand_over,
    labarchives,
    log_of,
    make_retrying_due,
    open_destinations,
    pass_time,
    raising,
    records_to_export,
    rows_of,
    schedule_retry,
    send,
    started,
    states_of,
    success,
    try_once,
    work,
)

AWAY = TransientError("CDCS is away")


def open_runs(deployment: Deployment) -> list[tuple[int, RunKind]]:
    """The open runs: (record id, kind)."""
    with transaction(deployment.engine) as connection:
        rows = connection.execute(text("SELECT record_id, kind FROM run WHERE state = 'open' ORDER BY id"))
        return [(row.record_id, RunKind(row.kind)) for row in rows]


def failing(deployment: Deployment, records: int, *, error: ExportError = AWAY) -> Fake:
    """CDCS has failed the first five of so many records, and is paused; the others were sent before that."""
    plugin = deployment.registry.get("cdcs")
    assert isinstance(plugin, Fake)
    plugin.answer = raising(error)
    hand_over(deployment, *records_to_export(records))
    for record_id in range(1, 6):
        work(deployment, "cdcs", record_id=record_id)
    plugin.answer = None
    return plugin


def test_five_records_failing_in_a_row_pause_a_destination_and_four_do_not(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(AWAY))
    deployment = deploy(plugin)
    hand_over(deployment, *records_to_export(5))
    for record_id in range(1, 6):
        assert breaker_of(deployment, "cdcs").closed
        work(deployment, "cdcs", record_id=record_id)
    breaker = breaker_of(deployment, "cdcs")
    assert not breaker.closed
    assert breaker.reason == "CDCS is away"
    assert sorted(breaker.failing_records) == [1, 2, 3, 4, 5]


def test_the_short_tries_of_one_record_do_not_pause_a_destination(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=raising(AWAY)))
    hand_over(deployment)
    for _ in range(6):
        schedule_retry(deployment, started(deployment, "cdcs"), AWAY)
    assert breaker_of(deployment, "cdcs").closed


def test_a_try_that_finds_its_destination_paused_makes_no_call_and_is_not_counted_or_logged(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    plugin = failing(deployment, 6)
    calls = len(plugin.contexts)
    assert try_once(deployment, "cdcs", 6)["state"] == "deferred"
    assert len(plugin.contexts) == calls
    row = rows_of(deployment, 6)["cdcs"]
    assert (row.state, row.failures) == (DeliveryState.PENDING, 0)
    assert try_once(deployment, "elabftw", 6)["state"] == "succeeded"
    reconcile(deployment.engine, 6)
    assert log_of(deployment, "session-6") == [("elabftw", 1)]
    assert send(deployment) == 0


def test_what_depends_on_a_paused_destination_goes_without_it(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    failing(deployment, 5)
    admin.pause(deployment, "elabftw")
    hand_over(deployment, records_to_export(6)[5])
    admin.resume(deployment, "elabftw")
    assert open_destinations(deployment, 6) == {"elabftw"}
    assert work(deployment, "elabftw", record_id=6).deliveries == {"cdcs": "pending", "elabftw": "succeeded"}


def test_one_probe_goes_out_when_the_pause_is_over_and_not_before(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    failing(deployment, 8)
    for record_id in (6, 7, 8):
        work(deployment, "cdcs", record_id=record_id)
    assert send(deployment) == 0
    pass_time(deployment, 31)
    assert send(deployment) == 1
    assert [kind for _, kind in open_runs(deployment)] == [RunKind.PROBE]
    assert send(deployment) == 0


@pytest.mark.parametrize("strategy", ["all", "first_success"])
def test_a_probe_of_one_destination_takes_no_record_that_goes_to_another_first(deploy: Deploy, strategy: str) -> None:
    depends_on = () if strategy == "first_success" else ("cdcs",)
    deployment = deploy(cdcs(), elabftw(depends_on=depends_on), NX_EXPORT_STRATEGY=strategy)
    admin.pause(deployment, "elabftw")
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE destination SET paused = false, opened_at = now(), open_until = now()"))
    hand_over(deployment)
    assert open_destinations(deployment) == {"cdcs"}


def test_a_probe_is_a_run_of_one_delivery_of_the_record_tried_longest_ago(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    failing(deployment, 5)
    for record_id in range(1, 6):
        try_once(deployment, "elabftw", record_id)
        reconcile(deployment.engine, record_id)
    admin.pause(deployment, "elabftw")
    make_retrying_due(deployment)
    pass_time(deployment, 31)
    with transaction(deployment.engine) as connection:  # of those whose time has come, record 2 was tried first
        connection.execute(text("UPDATE delivery SET next_attempt_at = now() + interval '1 hour' WHERE record_id = 1"))
    assert send(deployment) == 1
    assert open_runs(deployment) == [(2, RunKind.PROBE)]
    assert open_destinations(deployment, 2) == {"cdcs"}


def test_two_paused_destinations_are_probed_one_dispatch_after_the_other_where_they_share_a_record(
    deploy: Deploy,
) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    for name in ("cdcs", "elabftw"):
        finish(deployment, started(deployment, name), ConfigurationError("wrong token"))
    reconcile(deployment.engine, 1)
    pass_time(deployment, 31)
    assert send(deployment) == 1
    [first] = open_destinations(deployment)
    work(deployment, first)
    assert send(deployment) == 1
    [second] = open_destinations(deployment)
    assert {first, second} == {"cdcs", "elabftw"}


def test_a_probe_that_succeeds_lifts_the_pause_and_the_others_follow(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    failing(deployment, 5)
    make_retrying_due(deployment)
    pass_time(deployment, 31)
    assert send(deployment) == 1
    assert not breaker_of(deployment, "cdcs").closed
    assert work(deployment, "cdcs", record_id=1).record_status is SessionStatus.COMPLETED
    assert breaker_of(deployment, "cdcs").closed
    assert send(deployment) == 4


@pytest.mark.parametrize("error", [PermanentError("not valid")])
def test_a_probe_that_is_refused_for_good_is_an_answer(deploy: Deploy, error: ExportError) -> None:
    deployment = deploy(cdcs())
    plugin = failing(deployment, 5)
    make_retrying_due(deployment)
    pass_time(deployment, 31)
    send(deployment)
    plugin.answer = raising(error)
    work(deployment, "cdcs", record_id=1)
    assert breaker_of(deployment, "cdcs").closed


def test_a_probe_that_fails_doubles_the_pause_and_is_not_tried_again_in_its_run(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    failing(deployment, 5)
    make_retrying_due(deployment)
    pass_time(deployment, 31)
    send(deployment)
    this = started(deployment, "cdcs", 1)
    assert this.probe
    assert not attempt.can_be_retried(deployment.engine, this, AWAY)
    finish(deployment, this, AWAY)
    reconcile(deployment.engine, 1)
    make_retrying_due(deployment)
    pass_time(deployment, 45)
    assert send(deployment) == 0
    pass_time(deployment, 16)
    assert send(deployment) == 1


def test_a_probe_whose_worker_died_is_followed_by_another(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    failing(deployment, 5)
    make_retrying_due(deployment)
    pass_time(deployment, 31)
    send(deployment)
    started(deployment, "cdcs", 1)
    pass_time(deployment, 1000)
    assert send(deployment) == 1
    [(record_id, kind)] = open_runs(deployment)
    assert (record_id, kind) == (2, RunKind.PROBE)


def test_a_late_failure_changes_nothing_in_a_pause_and_a_late_success_does_not_lift_it(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    plugin = cdcs()
    hand_over(deployment, *records_to_export(7))
    late_failure, late_success = started(deployment, "cdcs", 6), started(deployment, "cdcs", 7)
    for record_id in range(1, 6):
        finish(deployment, started(deployment, "cdcs", record_id), AWAY)
    before = breaker_of(deployment, "cdcs")
    finish(deployment, late_failure, AWAY)
    go_on(deployment, late_success)
    assert breaker_of(deployment, "cdcs") == before
    assert states_of(deployment, 7) == {"cdcs": DeliveryState.SUCCEEDED}
    assert plugin.contexts == []


def test_a_configuration_failure_pauses_at_once_and_everything_catches_up_with_the_mended_token(
    deploy: Deploy,
) -> None:
    plugin = cdcs(answer=raising(ConfigurationError("CDCS refuses the token")))
    deployment = deploy(plugin)
    hand_over(deployment, *records_to_export(3))
    assert try_once(deployment, "cdcs", 1)["state"] == "configuration"
    assert try_once(deployment, "cdcs", 2)["state"] == "deferred"
    assert try_once(deployment, "cdcs", 3)["state"] == "deferred"
    plugin.answer = None
    for record_id in (1, 2, 3):
        reconcile(deployment.engine, record_id)
    pass_time(deployment, 31)
    assert send(deployment) == 1
    [(probed, kind)] = open_runs(deployment)
    assert kind is RunKind.PROBE
    assert work(deployment, "cdcs", record_id=probed).record_status is SessionStatus.COMPLETED
    assert send(deployment) == 2
    others = {1, 2, 3} - {probed}
    assert [work(deployment, "cdcs", record_id=number).record_status for number in others] == [
        SessionStatus.COMPLETED
    ] * 2


@pytest.mark.parametrize(("retry_after", "pauses"), [(30, False), (31, True), (3600, True)])
def test_a_long_retry_after_pauses_the_destination_for_as_long(
    deploy: Deploy, retry_after: float, *, pauses: bool
) -> None:
    busy = TransientError("429 Too Many Requests", retry_after=retry_after)
    deployment = deploy(cdcs(answer=raising(busy)))
    hand_over(deployment)
    this = started(deployment, "cdcs")
    assert attempt.can_be_retried(deployment.engine, this, busy) is not pauses
    finish(deployment, this, busy)
    breaker = breaker_of(deployment, "cdcs")
    assert breaker.closed is not pauses
    if pauses:
        assert breaker.open_until is not None
        assert breaker.opened_at is not None
        assert (breaker.open_until - breaker.opened_at).total_seconds() == retry_after


def test_a_broken_document_says_nothing_about_the_destination(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_PAUSE_AFTER=1)
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE record SET document = 'gone.xml'"))
    assert try_once(deployment, "cdcs")["state"] == "transient"
    assert breaker_of(deployment, "cdcs").closed


def test_a_refused_connection_counts_like_any_other_failure(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_PAUSE_AFTER=1)
    hand_over(deployment)
    finish(deployment, started(deployment, "cdcs"), NothingDoneError("refused"))
    assert not breaker_of(deployment, "cdcs").closed


def test_a_paused_destination_is_probed_although_its_only_record_seems_to_kill_workers(deploy: Deploy) -> None:
    """Otherwise nobody would ever find out that it is well again."""
    deployment = deploy(cdcs())
    hand_over(deployment)
    finish(deployment, started(deployment, "cdcs"), ConfigurationError("wrong token"))
    reconcile(deployment.engine, 1)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE delivery SET deaths = 2"))
    pass_time(deployment, 31)
    assert send(deployment) == 1


def test_a_probe_respects_the_window(deploy: Deploy) -> None:
    """LabArchives is called by one worker at a time, paused or not."""
    deployment = deploy(labarchives(depends_on=()))
    hand_over(deployment, *records_to_export(2))
    schedule_retry(deployment, started(deployment, "labarchives", 1), TransientError("busy"))
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE destination SET opened_at = now(), open_until = now()"))
    assert send(deployment) == 0
    assert [row for row, _ in open_runs(deployment)] == [1]


def test_first_success_sends_no_probe_elsewhere_while_it_is_unknown_what_one_destination_holds(
    deploy: Deploy,
) -> None:
    deployment = deploy(cdcs(), elabftw(depends_on=()), NX_EXPORT_STRATEGY="first_success")
    plugin = deployment.registry.get("cdcs")
    assert isinstance(plugin, Fake)

    def lose_the_answer() -> str:
        raise TransientError("504 Gateway Timeout")

    plugin.answer = lambda context: success("cdcs", context.checkpoint.create("record", lose_the_answer))
    hand_over(deployment)
    work(deployment, "cdcs")
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE destination SET opened_at = now(), open_until = now() WHERE name = 'elabftw'"))
    assert send(deployment) == 0
    assert attempt_states(deployment) == [("cdcs", AttemptState.TRANSIENT)]


# --- an operator's pause


def test_an_operators_pause_holds_everything_back_until_it_is_resumed(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    admin.pause(deployment, "cdcs")
    hand_over(deployment)
    assert open_destinations(deployment) == {"elabftw"}
    work(deployment, "elabftw")
    pass_time(deployment, 86_400)
    assert send(deployment) == 0
    admin.resume(deployment, "cdcs")
    assert open_destinations(deployment) == {"cdcs"}


def test_what_was_on_its_way_when_an_operator_paused_is_deferred(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    admin.pause(deployment, "cdcs")
    result = try_once(deployment, "cdcs")
    assert result["state"] == "deferred"
    assert result["error_message"] == "cdcs is paused: paused by an operator"


@pytest.mark.parametrize("outcome", [success("cdcs"), AWAY, ConfigurationError("token")])
def test_an_operators_pause_outlasts_what_was_in_a_try(deploy: Deploy, outcome: attempt.Outcome) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    this = started(deployment, "cdcs")
    admin.pause(deployment, "cdcs")
    finish(deployment, this, outcome)
    breaker = breaker_of(deployment, "cdcs")
    assert breaker.paused
    assert breaker.reason


def test_resume_sends_what_a_failing_destination_has_left_due(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    failing(deployment, 6)
    work(deployment, "cdcs", record_id=6)
    admin.resume(deployment, "cdcs")
    assert breaker_of(deployment, "cdcs").failing_records == ()
    assert open_runs(deployment) == [(6, RunKind.NORMAL)]
    assert attempts_of(deployment, 6)[-1].run_kind is RunKind.NORMAL
