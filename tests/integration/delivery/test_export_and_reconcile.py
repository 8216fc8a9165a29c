"""Records handed over and settled on a real PostgreSQL and a real broker, with nobody but the test to work on them."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, text

from nexus_tasks.db import planning, reconciling, records, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.delivery import archive, attempt
from nexus_tasks.delivery.attempt import Finished, NotWantedError
from nexus_tasks.delivery.documents import ARCHIVE_FOLDER, DocumentError, sha256_of
from nexus_tasks.delivery.export_records import ClaimLostError, EnqueueError, HandedOver
from nexus_tasks.delivery.planner import dispatch
from nexus_tasks.delivery.plugin_call import call_plugin
from nexus_tasks.delivery.reconcile import Reconciled, reconcile
from nexus_tasks.delivery.snapshot import DependencyCycleError
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.states import AttemptState, DeliveryState, RunState, SessionStatus
from tests.integration.delivery.by_hand import (
    INSTRUMENT,
    REBUILT,
    RECORD,
    SESSION,
    START,
    Deploy,
    Fake,
    Message,
    attempts_of,
    breaker_of,
    cdcs,
    elabftw,
    everything,
    finish,
    hand_over,
    log_of,
    message_for,
    messages_in,
    pass_time,
    perform,
    performed,
    raising,
    records_to_export,
    rows_of,
    start_message,
    started,
    states_of,
    status_of,
    success,
    try_once,
    wait_of,
    work,
    work_again,
)
from tests.timing import fastest

MOST_SECONDS_WITHOUT_BROKER = 1.0


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


def test_other_contents_for_the_same_session_replace_the_record(deploy: Deploy, tmp_path: Path) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    assert hand_over(deployment, REBUILT).record_ids == (1,)
    with transaction(deployment.engine) as connection:
        record = records.of_sessions(connection)[0]
    assert (tmp_path / "records" / record.document).read_bytes() == REBUILT.xml
    assert record.sha256 == sha256_of(REBUILT.xml)
    events = sorted(str(row[4]) for row in everything(deployment)["session_log"])
    assert events == ["END", "RECORD_GENERATION", "RECORD_GENERATION", "START"]


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
        hand_over(deployment, other, replace(RECORD, session_identifier="third", timezone="Mars/Olympus"))
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
    assert fastest(lambda: hand_over(away), enough=MOST_SECONDS_WITHOUT_BROKER) < MOST_SECONDS_WITHOUT_BROKER
    handed_over = hand_over(away)
    assert handed_over.record_ids == (1,)
    problem = handed_over.broker_problem
    assert problem is not None
    assert "NX_BROKER_URL" in problem
    assert "Nothing is lost" in problem
    assert "s3cret" not in problem
    assert "\n" not in problem
    assert set(states_of(away).values()) == {DeliveryState.PENDING}
    assert {(row.state, row.run_state) for row in attempts_of(away)} == {(AttemptState.CANCELLED, RunState.CLOSED)}

    back = deploy(*destinations)
    assert dispatch(back) == 1
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 1}
    assert work(back, "cdcs", "elabftw").record_status is SessionStatus.COMPLETED


def test_whatever_publishing_raises_closes_the_run_and_is_told(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose broker dies under it has been seen to raise an AttributeError."""
    deployment = deploy(cdcs())

    def dying(*_: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'client'")

    with monkeypatch.context() as patch:
        patch.setattr("nexus_tasks.delivery.planner.canvas", dying)
        problem = hand_over(deployment).broker_problem
    assert problem is not None
    assert "AttributeError" in problem
    assert {(row.state, row.run_state) for row in attempts_of(deployment)} == {
        (AttemptState.CANCELLED, RunState.CLOSED)
    }
    assert dispatch(deployment) == 1


def test_without_a_broker_every_record_of_a_batch_is_kept(deploy: Deploy, broker_url: str, closed_port: int) -> None:
    batch = [replace(RECORD, session_identifier=f"session-{number}") for number in range(5)]
    away = deploy(cdcs(), NX_BROKER_URL=f"redis://127.0.0.1:{closed_port}/0")
    assert fastest(lambda: hand_over(away, *batch), enough=MOST_SECONDS_WITHOUT_BROKER) < MOST_SECONDS_WITHOUT_BROKER
    assert hand_over(away, *batch).broker_problem
    back = deploy(cdcs())
    assert dispatch(back) == 5
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 5}


def test_a_window_bounds_what_is_sent_and_the_next_dispatch_sends_the_next(deploy: Deploy) -> None:
    deployment = deploy(cdcs(window=2))
    hand_over(deployment, *(replace(RECORD, session_identifier=f"session-{number}") for number in range(3)))
    assert [len(attempts_of(deployment, record_id)) for record_id in (1, 2, 3)] == [1, 1, 0]
    assert dispatch(deployment) == 0
    work(deployment, "cdcs", record_id=1)
    assert dispatch(deployment) == 1
    assert [len(attempts_of(deployment, record_id)) for record_id in (1, 2, 3)] == [1, 1, 1]


def test_planners_at_once_send_each_record_once(deploy: Deploy, broker_url: str, closed_port: int) -> None:
    batch = [replace(RECORD, session_identifier=f"session-{number}") for number in range(10)]
    hand_over(deploy(cdcs(), NX_BROKER_URL=f"redis://127.0.0.1:{closed_port}/0"), *batch)
    deployment = deploy(cdcs())
    together = threading.Barrier(4)

    def dispatch_together(_: int) -> int:
        together.wait(10)
        return dispatch(deployment)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(dispatch_together, range(4))) == 10
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 10}


# --- settling


def test_a_record_that_every_destination_holds_is_completed(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    assert work(deployment, "cdcs", "elabftw") == Reconciled(
        SESSION, SessionStatus.COMPLETED, {"cdcs": "succeeded", "elabftw": "succeeded"}
    )
    assert log_of(deployment) == [("cdcs", 1), ("elabftw", 1)]


def test_settling_again_changes_nothing(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(answer=raising(TransientError("away"))))
    hand_over(deployment)
    first = work(deployment, "cdcs", "elabftw")
    before = everything(deployment)
    assert reconcile(deployment.engine, 1) == first
    assert everything(deployment) == before
    assert log_of(deployment) == [("cdcs", 1), ("elabftw", 0)]


def test_settling_twice_at_once_is_as_good_as_once(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(depends_on=()), Fake("mirror", 10), NX_EXPORT_STRATEGY="first_success")
    hand_over(deployment)
    try_once(deployment, "cdcs")
    together = threading.Barrier(2)

    def settle_together(_: int) -> Reconciled:
        together.wait(10)
        return reconcile(deployment.engine, 1)

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
    assert dispatch(deployment) == 0


@pytest.mark.parametrize("error", [PermanentError("no"), TransientError("away")])
def test_first_success_goes_on_to_the_next_after_a_failure(deploy: Deploy, error: ExportError) -> None:
    deployment = deploy(cdcs(answer=raising(error)), elabftw(), NX_EXPORT_STRATEGY="first_success")
    hand_over(deployment)
    assert work(deployment, "cdcs").record_status is SessionStatus.BUILT_NOT_EXPORTED
    assert dispatch(deployment) == 1
    assert work(deployment, "elabftw").record_status is SessionStatus.COMPLETED
    assert log_of(deployment) == [("cdcs", 0), ("elabftw", 1)]


def test_what_requires_a_failed_destination_is_skipped_with_the_reason(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=raising(PermanentError("not valid"))), elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    assert try_once(deployment, "cdcs")["state"] == "permanent"
    assert try_once(deployment, "elabftw")["state"] == "deferred"
    reconcile(deployment.engine, 1)
    elab = rows_of(deployment)["elabftw"]
    assert elab.state is DeliveryState.SKIPPED
    assert elab.error_message == "it requires cdcs, which does not hold the record"
    assert log_of(deployment) == [("cdcs", 0)]


def test_what_requires_a_destination_that_is_tried_again_follows_it_in_the_next_run(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(TransientError("away")))
    deployment = deploy(plugin, elabftw(requires=("cdcs",), depends_on=()))
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    assert states_of(deployment) == {"cdcs": DeliveryState.RETRYING, "elabftw": DeliveryState.PENDING}
    assert dispatch(deployment) == 0
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
    assert reconcile(deployment.engine, 1) == Reconciled(SESSION, SessionStatus.BUILT_NOT_EXPORTED, {})
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


def test_a_document_that_cannot_be_moved_does_not_keep_others_from_the_archive(
    deploy: Deploy, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "BATCH", 2)
    deployment = deploy(cdcs())
    hand_over(deployment, *records_to_export(5))
    for record_id in range(1, 6):
        work(deployment, "cdcs", record_id=record_id)
    folder = tmp_path / "records" / ARCHIVE_FOLDER
    for record_id in (1, 2, 3):
        with transaction(deployment.engine) as connection:
            in_the_way = folder / records.of_sessions(connection, [f"session-{record_id}"])[0].document
        in_the_way.mkdir(parents=True)  # a file cannot be renamed to a folder
    assert archive.sweep(deployment.engine, deployment.settings) == 2
    assert caplog.text.count("cannot be moved") == 1
    assert "session-1" in caplog.text
    in_the_way.rmdir()
    assert archive.sweep(deployment.engine, deployment.settings) == 1


def test_a_document_that_is_gone_does_not_keep_others_from_the_archive(
    deploy: Deploy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment, RECORD, replace(RECORD, session_identifier="other"))
    work(deployment, "cdcs", record_id=1)
    work(deployment, "cdcs", record_id=2)
    with transaction(deployment.engine) as connection:
        document = records.of_sessions(connection)[0].document
    (tmp_path / "records" / document).unlink()
    assert archive.sweep(deployment.engine, deployment.settings) == 1
    assert SESSION in caplog.text
    assert document in caplog.text


def test_an_attempt_that_ends_while_its_record_is_reconciled_has_ended(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    try_once(deployment, "cdcs")
    this = started(deployment, "elabftw")
    write = reconciling.write

    def write_too_late(connection: Connection, changed: list[reconciling.Changed]) -> None:
        finish(deployment, this, success("elabftw"))
        write(connection, changed)

    with monkeypatch.context() as patched:
        patched.setattr(reconciling, "write", write_too_late)
        hand_over(deployment)  # again, by another builder
    assert states_of(deployment) == {"cdcs": DeliveryState.SUCCEEDED, "elabftw": DeliveryState.SUCCEEDED}
    assert reconcile(deployment.engine, 1).record_status is SessionStatus.COMPLETED
    assert log_of(deployment) == [("cdcs", 1), ("elabftw", 1)]
    assert dispatch(deployment) == 0


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
    first = message_for(deployment, "cdcs")
    begun_first = started(deployment, "cdcs")
    answer = call_plugin(begun_first, plugin, deployment.engine, deployment.settings)
    result = attempt.finish(deployment.engine, begun_first, deployment.settings, answer).result
    assert result == {
        "destination": "cdcs",
        "state": "succeeded",
        "record_id": "7",
        "record_url": "https://cdcs.example.org/7",
        "error_message": None,
    }
    assert start_message(deployment, first) == Finished(result)
    late = TransientError("the first worker comes back late")
    assert attempt.finish(deployment.engine, begun_first, deployment.settings, late) == Finished(result)
    assert states_of(deployment)["cdcs"] is DeliveryState.SUCCEEDED
    assert len(plugin.contexts) == 1


def test_a_message_of_a_closed_run_is_not_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    work(deployment, "cdcs")
    with pytest.raises(NotWantedError):
        start_message(deployment, message)


def test_a_message_of_a_run_that_counts_as_not_sent_is_not_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    message = message_for(deployment, "cdcs")
    with transaction(deployment.engine) as connection:
        planning.cancel_run(connection, 1)
    with pytest.raises(NotWantedError):
        start_message(deployment, message)
    assert states_of(deployment) == {"cdcs": DeliveryState.PENDING}


def test_a_message_of_an_attempt_that_does_not_exist_is_not_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    with pytest.raises(NotWantedError):
        start_message(deployment, Message(4711, uuid4().hex))


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
    this = started(deployment, "cdcs")
    with pytest.raises(DocumentError, match=document.name) as refused:
        perform(deployment, this)
    finish(deployment, this, refused.value)
    reconcile(deployment.engine, 1)
    row = rows_of(deployment)["cdcs"]
    assert plugin.contexts == []
    assert (row.state, row.failures) == (DeliveryState.RETRYING, 1)
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
    assert (first.state, first.failures, first.error_message) == (DeliveryState.RETRYING, 1, "CDCS is away")
    assert timedelta(seconds=50) < wait_of(deployment, "cdcs") <= timedelta(seconds=60)
    assert dispatch(deployment) == 0
    work_again(deployment, "cdcs")
    assert timedelta(seconds=290) < wait_of(deployment, "cdcs") <= timedelta(seconds=300)
    work_again(deployment, "cdcs")
    last = rows_of(deployment)["cdcs"]
    assert (last.state, last.failures) == (DeliveryState.FAILED, 3)
    assert last.error_message == "Given up after 3 failed attempts; the last one: CDCS is away"
    assert dispatch(deployment) == 0
    assert log_of(deployment) == [("cdcs", 0)] * 3


def test_a_configuration_failure_leaves_the_delivery_due_and_pauses_the_destination(deploy: Deploy) -> None:
    plugin = cdcs(answer=raising(ConfigurationError("CDCS refuses the token")))
    deployment = deploy(plugin, NX_MAX_FAILURES=1)
    hand_over(deployment)
    work(deployment, "cdcs")
    row = rows_of(deployment)["cdcs"]
    assert (row.state, row.failures, row.error_message) == (DeliveryState.PENDING, 0, "CDCS refuses the token")
    assert not breaker_of(deployment, "cdcs").closed
    assert dispatch(deployment) == 0
    pass_time(deployment, 30)
    work_again(deployment, "cdcs")  # the probe
    assert rows_of(deployment)["cdcs"].failures == 0
    assert log_of(deployment) == [("cdcs", 0)] * 2
    plugin.answer = None
    pass_time(deployment, 60)
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


def test_the_end_of_an_attempt_says_when_planning_again_is_worth_it(deploy: Deploy) -> None:
    deployment = deploy(cdcs(window=1), elabftw(window=2))
    hand_over(deployment, *records_to_export(2))
    worth_planning = {}
    for name in ("cdcs", "elabftw"):
        result = ExportResult(success=True, destination_name=name, record_id="7")
        worth_planning[name] = finish(deployment, started(deployment, name), result).worth_planning
    assert worth_planning == {"cdcs": True, "elabftw": False}  # the other record's notebook waits for its CDCS


def test_a_wide_destination_is_topped_up_when_half_of_it_is_free(deploy: Deploy) -> None:
    deployment = deploy(cdcs(window=4))
    hand_over(deployment, *records_to_export(6))
    result = ExportResult(success=True, destination_name="cdcs", record_id="7")
    worth_planning = [
        finish(deployment, started(deployment, "cdcs", record_id), result).worth_planning for record_id in (1, 2, 3)
    ]
    assert worth_planning == [False, True, True]
    assert dispatch(deployment) == 2


@pytest.mark.parametrize("path", ["../secrets.txt", "/etc/passwd", "Titan/../../a.dm3"])
@pytest.mark.parametrize("kind", ["files", "previews"])
def test_a_record_that_names_files_outside_of_the_data_root_is_refused(deploy: Deploy, kind: str, path: str) -> None:
    deployment = deploy(cdcs())
    activity = {"files": ["Titan/a.dm3"], "previews": [None], kind: [path]}
    with pytest.raises(EnqueueError, match="NX_INSTRUMENT_DATA_PATH"):
        hand_over(deployment, replace(RECORD, activities=[activity]))
    assert everything(deployment)["record"] == []
