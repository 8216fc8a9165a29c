"""What dispatch makes of runs in which nothing happens any more, and of records that kill their workers."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from nexus_tasks.db import reconciling, upload_log, workers
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery import admin, planner
from nexus_tasks.delivery.attempt import NotWantedError
from nexus_tasks.delivery.reconcile import reconcile
from nexus_tasks.delivery.rescuer import UNREAD_PATIENCE
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportContext, ExportResult, TransientError
from nexus_tasks.states import AttemptState, DeliveryState, RunKind, RunState, SessionStatus
from tests.integration.delivery.by_hand import (
    SESSION,
    Deploy,
    Message,
    WorkerDiedError,
    attempt_states,
    attempts_of,
    cdcs,
    die_in_try,
    elabftw,
    empty_broker,
    everything,
    finish,
    hand_over,
    labarchives,
    log_of,
    lose_open_runs,
    make_retrying_due,
    message_for,
    messages_in,
    open_destinations,
    pass_time,
    perform,
    put_message,
    records_to_export,
    rows_of,
    schedule_retry,
    send,
    start_message,
    started,
    states_of,
    store_waits,
    success,
    try_once,
    work,
)


def run_states(deployment: Deployment, record_id: int = 1) -> list[RunState]:
    """The states of the record's runs, oldest first."""
    with transaction(deployment.engine) as connection:
        rows = connection.execute(text("SELECT state FROM run WHERE record_id = :id ORDER BY id"), {"id": record_id})
        return [RunState(state) for state in rows.scalars()]


def test_a_run_whose_message_is_gone_is_planned_again(deploy: Deploy, broker_url: str) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    old = message_for(deployment, "cdcs")
    empty_broker(broker_url)
    assert send(deployment) == 0  # it may be in a worker's hands
    lose_open_runs(deployment)
    assert send(deployment) == 1
    assert run_states(deployment) == [RunState.LOST, RunState.OPEN]
    assert attempt_states(deployment)[:2] == [("cdcs", AttemptState.CANCELLED), ("elabftw", AttemptState.CANCELLED)]
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 1}
    assert rows_of(deployment)["cdcs"].deaths == 0
    with pytest.raises(NotWantedError):
        start_message(deployment, old)
    assert work(deployment, "cdcs", "elabftw").record_status is SessionStatus.COMPLETED
    assert log_of(deployment) == [("cdcs", 1), ("elabftw", 1)]


def test_with_default_settings_a_run_that_vanished_is_planned_again_within_three_minutes(
    deploy: Deploy, broker_url: str
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    empty_broker(broker_url)
    pass_time(deployment, 175)
    assert send(deployment) == 1


def test_a_run_whose_message_may_still_wait_is_left_alone(deploy: Deploy, broker_url: str) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    lose_open_runs(deployment)
    assert send(deployment) == 0
    assert run_states(deployment) == [RunState.OPEN]
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 1}


def test_a_message_in_front_of_which_others_were_taken_is_gone_though_its_queue_is_not_empty(
    deploy: Deploy, broker_url: str
) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment, *records_to_export(2))
    empty_broker(broker_url)
    put_message(broker_url, "export.cdcs")
    started(deployment, "cdcs", 2)
    lose_open_runs(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE run SET expected_by = now() + interval '1 hour' WHERE record_id = 2"))
    assert send(deployment) == 1
    assert run_states(deployment, 1) == [RunState.LOST, RunState.OPEN]


def test_a_message_in_the_queue_of_another_destination_saves_nobody(deploy: Deploy, broker_url: str) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    empty_broker(broker_url)
    put_message(broker_url, "exports")
    lose_open_runs(deployment)
    assert send(deployment) == 1


def workers_read(deployment: Deployment, *queues: str) -> None:
    """Have one worker run, which reads those queues and no other."""
    with transaction(deployment.engine) as connection:
        workers.present(
            connection, "w@host", UUID(int=1), queues=queues, version="1", clock_offset_s=0, stores={"NX_DATA_PATH": ""}
        )


def wait_for_a_reader(deployment: Deployment) -> None:
    """Have the time pass after which a queue that nobody reads holds no run any more."""
    lose_open_runs(deployment)
    assert send(deployment) == 0
    pass_time(deployment, UNREAD_PATIENCE.total_seconds())


def test_a_queue_that_nobody_reads_holds_no_other_delivery_of_its_records(deploy: Deploy, broker_url: str) -> None:
    """The plugin was taken out of the settings, and no worker knows its queue any more."""
    deployment = deploy(cdcs(), elabftw(depends_on=()))
    hand_over(deployment)
    workers_read(deployment, "export.cdcs", "exports")
    try_once(deployment, "cdcs")
    wait_for_a_reader(deployment)
    assert run_states(deployment) == [RunState.OPEN]
    assert send(deployment) == 1
    assert run_states(deployment) == [RunState.LOST, RunState.OPEN]
    assert log_of(deployment) == [("cdcs", 1)]
    assert states_of(deployment) == {"cdcs": DeliveryState.SUCCEEDED, "elabftw": DeliveryState.PENDING}


def test_a_worker_that_comes_back_in_time_finds_its_messages_wanted(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    workers_read(deployment, "exports")
    lose_open_runs(deployment)
    send(deployment)
    workers_read(deployment, "exports", "export.cdcs")
    for _ in range(3):
        pass_time(deployment, UNREAD_PATIENCE.total_seconds())
        assert send(deployment) == 0
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED


def test_without_any_worker_all_messages_wait(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    wait_for_a_reader(deployment)
    assert send(deployment) == 0
    assert run_states(deployment) == [RunState.OPEN]


def test_no_more_than_the_window_is_sent_into_a_queue_that_nobody_reads(deploy: Deploy, broker_url: str) -> None:
    deployment = deploy(cdcs(window=3))
    hand_over(deployment, *records_to_export(2))
    workers_read(deployment, "exports")
    for _ in range(4):
        wait_for_a_reader(deployment)
        send(deployment)
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 3}

    empty_broker(broker_url)  # a worker has taken them: their runs are lost, so it did nothing
    workers_read(deployment, "exports", "export.cdcs")
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE run SET expected_by = now() - interval '1 second'"))
    assert send(deployment) == 2
    assert [open_destinations(deployment, number) for number in (1, 2)] == [{"cdcs"}, {"cdcs"}]
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 2}


def test_a_delivery_that_is_given_up_holds_its_run_no_longer(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(depends_on=()))
    hand_over(deployment)
    try_once(deployment, "cdcs")
    admin.abandon(deployment, SESSION, "elabftw")
    lose_open_runs(deployment)
    assert send(deployment) == 0
    assert run_states(deployment) == [RunState.LOST]
    assert log_of(deployment) == [("cdcs", 1)]


def test_no_run_is_given_up_while_the_broker_does_not_answer(deploy: Deploy, closed_port: int) -> None:
    hand_over(deploy(cdcs()))
    away = deploy(cdcs(), NX_BROKER_URL=f"redis://127.0.0.1:{closed_port}/0")
    lose_open_runs(away)
    assert send(away) == 0
    assert run_states(away) == [RunState.OPEN]


def test_a_worker_that_died_in_its_try_counts_against_the_delivery(deploy: Deploy, broker_url: str) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    die_in_try(deployment, "cdcs")
    empty_broker(broker_url)
    pass_time(deployment, 1000)
    assert send(deployment) == 1
    assert attempt_states(deployment)[:2] == [("cdcs", AttemptState.EXPIRED), ("elabftw", AttemptState.CANCELLED)]
    rows = rows_of(deployment)
    assert (rows["cdcs"].deaths, rows["elabftw"].deaths) == (1, 0)
    assert open_destinations(deployment) == {"cdcs", "elabftw"}


def test_a_try_that_celery_never_made_is_no_death(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    schedule_retry(deployment, started(deployment, "cdcs"), TransientError("away"), countdown=20)
    pass_time(deployment, 130)
    assert send(deployment) == 0  # its countdown belongs to its time
    pass_time(deployment, 20)
    assert send(deployment) == 1
    assert attempt_states(deployment)[0] == ("cdcs", AttemptState.CANCELLED)
    assert rows_of(deployment)["cdcs"].deaths == 0


def test_a_run_that_has_only_lost_its_finalize_is_settled(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    try_once(deployment, "cdcs")
    lose_open_runs(deployment)
    assert send(deployment) == 0
    assert run_states(deployment) == [RunState.CLOSED]
    assert log_of(deployment) == [("cdcs", 1)]


def test_a_dispatch_that_dies_in_the_middle_leaves_no_death_without_its_consequences(
    deploy: Deploy, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery that fails by it is logged, and what requires it is skipped, by whichever dispatch comes next."""
    deployment = deploy(cdcs(), elabftw(requires=("cdcs",)))
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE delivery SET deaths = 4 WHERE destination = 'cdcs'"))
        connection.execute(text("UPDATE run SET kind = 'quarantine'"))
    die_in_try(deployment, "cdcs")
    empty_broker(broker_url)
    lose_open_runs(deployment)

    def die(*_: object) -> NoReturn:
        raise WorkerDiedError

    with monkeypatch.context() as patched:
        patched.setattr(reconciling, "close_and_log", die)
        with pytest.raises(WorkerDiedError):
            send(deployment)
    send(deployment)
    assert states_of(deployment) == {"cdcs": DeliveryState.FAILED, "elabftw": DeliveryState.SKIPPED}
    assert log_of(deployment) == [("cdcs", 0)]


def test_lost_runs_and_an_operator_who_changes_their_deliveries_never_wait_in_a_circle(
    deploy: Deploy, broker_url: str
) -> None:
    deployment = deploy(cdcs())
    admin.pause(deployment, "cdcs")
    hand_over(deployment, *records_to_export(2))
    with transaction(deployment.engine) as connection:
        connection.execute(
            text(
                "UPDATE delivery SET state = 'retrying', next_attempt_at = now() + interval '1 day' WHERE record_id = 1"
            )
        )
    admin.resume(deployment, "cdcs")
    make_retrying_due(deployment)
    send(deployment)  # the first record's run is the second one
    for number in (1, 2):
        die_in_try(deployment, "cdcs", number)
    empty_broker(broker_url)
    lose_open_runs(deployment)

    def change(connection: Connection, number: int) -> None:
        connection.execute(text("UPDATE delivery SET priority = 1 WHERE record_id = :id"), {"id": number})

    with ThreadPoolExecutor(1) as pool:
        with transaction(deployment.engine) as connection:
            change(connection, 1)
            sent = pool.submit(send, deployment)
            wait_until_somebody_waits(deployment)
            change(connection, 2)
        sent.result(60)
    assert [run_states(deployment, number)[0] for number in (1, 2)] == [RunState.LOST] * 2


def wait_until_somebody_waits(deployment: Deployment) -> None:
    """For a row that another transaction has locked."""
    give_up_at = time.monotonic() + 60
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while True:
        with transaction(deployment.engine) as connection:
            if connection.execute(text(waiting)).first() is not None:
                return
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


@pytest.mark.parametrize("taken", [True, False], ids=["delivered", "not-delivered"])
def test_a_failed_publish_takes_back_only_what_no_worker_has_begun_with(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    """The answer to a publish can be lost although its message was delivered."""
    deployment = deploy(cdcs())
    at_work = []

    class Unlucky:
        def apply_async(self) -> NoReturn:
            if taken:
                at_work.append(started(deployment, "cdcs"))
            raise ConnectionResetError

    monkeypatch.setattr(planner, "canvas", lambda *_: Unlucky())
    assert hand_over(deployment).broker_problem
    expected = (AttemptState.STARTED, RunState.OPEN) if taken else (AttemptState.CANCELLED, RunState.CLOSED)
    assert [(row.state, row.run_state) for row in attempts_of(deployment)] == [expected]
    for this in at_work:
        finish(deployment, this, success("cdcs"))
        assert reconcile(deployment.engine, 1).record_status is SessionStatus.COMPLETED


def test_a_run_that_goes_on_is_not_lost(deploy: Deploy, broker_url: str) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    empty_broker(broker_url)
    pass_time(deployment, 90)
    try_once(deployment, "cdcs")
    pass_time(deployment, 90)
    assert send(deployment) == 0
    this = started(deployment, "elabftw")
    pass_time(deployment, 80, this)
    this.lease.check()
    pass_time(deployment, 80, this)
    assert send(deployment) == 0
    finish(deployment, this, success("elabftw"))
    assert reconcile(deployment.engine, 1).record_status is SessionStatus.COMPLETED


def test_planners_at_once_plan_a_lost_run_again_once(deploy: Deploy, broker_url: str) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment, *records_to_export(5))
    empty_broker(broker_url)
    lose_open_runs(deployment)
    together = threading.Barrier(4)

    def dispatch_together(_: int) -> int:
        together.wait(10)
        return send(deployment)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(dispatch_together, range(4))) == 5
    assert messages_in(broker_url, "export.cdcs") == {"export.cdcs": 5}
    assert all(run_states(deployment, number) == [RunState.LOST, RunState.OPEN] for number in range(1, 6))


def test_a_window_counts_open_attempts_over_all_workers(deploy: Deploy) -> None:
    deployment = deploy(labarchives(depends_on=()), elabftw(depends_on=()), NX_WINDOWS="elabftw=2")
    hand_over(deployment, *records_to_export(3))

    def on_their_way() -> dict[str, int]:
        destinations = [name for number in (1, 2, 3) for name in open_destinations(deployment, number)]
        return {name: destinations.count(name) for name in ("labarchives", "elabftw")}

    assert on_their_way() == {"labarchives": 1, "elabftw": 2}
    started(deployment, "labarchives", 1)
    finish(deployment, started(deployment, "elabftw", 1), success("elabftw"))
    assert send(deployment) == 1
    assert on_their_way() == {"labarchives": 1, "elabftw": 3}  # the one that has ended belongs to an open run
    assert open_destinations(deployment, 3) == {"elabftw"}
    assert send(deployment) == 0


# --- records that kill their workers


def killing(_: ExportContext) -> ExportResult:
    raise WorkerDiedError


def die(deployment: Deployment, record_id: int = 1) -> None:
    """The worker is killed by the record; the run is found lost, and what is due is sent."""
    with pytest.raises(WorkerDiedError):
        perform(deployment, started(deployment, "cdcs", record_id))
    with transaction(deployment.engine) as connection:
        connection.execute(
            text("UPDATE run SET expected_by = now() - interval '1 second' WHERE record_id = :id"), {"id": record_id}
        )
        connection.execute(text("UPDATE attempt SET lease_expires_at = now() WHERE lease_token IS NOT NULL"))
    send(deployment)


def kinds(deployment: Deployment, record_id: int = 1) -> list[RunKind]:
    """The kinds of the record's runs to CDCS, oldest first."""
    return [row.run_kind for row in attempts_of(deployment, record_id) if row.destination == "cdcs"]


def test_a_record_that_kills_its_workers_runs_alone_after_two_deaths_and_fails_after_three_there(
    deploy: Deploy, broker_url: str
) -> None:
    deployment = deploy(cdcs(answer=killing), elabftw())
    hand_over(deployment)
    for _ in range(5):
        assert states_of(deployment)["cdcs"] is DeliveryState.PENDING
        empty_broker(broker_url)
        die(deployment)
    assert kinds(deployment) == [RunKind.NORMAL] * 2 + [RunKind.QUARANTINE] * 3
    row = rows_of(deployment)["cdcs"]
    assert (row.state, row.deaths) == (DeliveryState.FAILED, 5)
    assert row.error_message is not None
    assert "The worker died 5 times" in row.error_message
    assert log_of(deployment) == [("cdcs", 0)]
    with transaction(deployment.engine) as connection:
        [logged] = upload_log.of_session(connection, SESSION)
    assert logged.error_message == row.error_message
    assert open_destinations(deployment) == {"elabftw"}
    assert work(deployment, "elabftw").deliveries == {"cdcs": "failed", "elabftw": "succeeded"}


def test_the_third_death_alone_counts_as_well_when_the_message_comes_again(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE delivery SET deaths = 4"))
        connection.execute(text("UPDATE run SET kind = 'quarantine'"))
    message = die_in_try(deployment, "cdcs")
    pass_time(deployment, 91)
    start_message(deployment, message)
    reconcile(deployment.engine, 1)
    assert states_of(deployment) == {"cdcs": DeliveryState.FAILED}
    assert log_of(deployment) == [("cdcs", 0)]


def test_a_delivery_that_fails_by_a_death_in_a_creating_call_says_that_the_object_may_exist(deploy: Deploy) -> None:
    def kill() -> str:
        raise WorkerDiedError

    deployment = deploy(cdcs(answer=lambda context: success("cdcs", context.checkpoint.create("record", kill))))
    hand_over(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE delivery SET deaths = 4"))
        connection.execute(text("UPDATE run SET kind = 'quarantine'"))
    die(deployment)
    row = rows_of(deployment)["cdcs"]
    assert (row.state, row.unresolved) == (DeliveryState.FAILED, True)
    assert row.error_message is not None
    assert "may exist" in row.error_message


def suspect(deployment: Deployment, *record_ids: int) -> None:
    with transaction(deployment.engine) as connection:
        for record_id in record_ids:
            connection.execute(text("UPDATE delivery SET deaths = 2 WHERE record_id = :id"), {"id": record_id})
    store_waits(deployment, *record_ids)


def test_one_record_at_a_time_runs_alone_over_all_workers_and_stops_nobody_else(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    admin.pause(deployment, "cdcs")
    hand_over(deployment, *records_to_export(4))
    suspect(deployment, 1, 2)
    admin.resume(deployment, "cdcs")
    assert [kinds(deployment, number) for number in (1, 2, 3, 4)] == [
        [RunKind.QUARANTINE],
        [],
        [RunKind.NORMAL],
        [RunKind.NORMAL],
    ]
    assert send(deployment) == 0
    work(deployment, "cdcs", record_id=1)
    assert send(deployment) == 1
    assert kinds(deployment, 2) == [RunKind.QUARANTINE]


def test_a_suspect_whose_queue_nobody_reads_does_not_keep_the_others_from_their_turn(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(depends_on=()))
    for name in ("cdcs", "elabftw"):
        admin.pause(deployment, name)
    hand_over(deployment)
    suspect(deployment, 1)
    workers_read(deployment, "export.elabftw", "exports")
    for name in ("cdcs", "elabftw"):
        admin.resume(deployment, name)
    assert attempt_states(deployment) == [("cdcs", AttemptState.PLANNED)]
    wait_for_a_reader(deployment)
    assert send(deployment) == 1
    assert open_destinations(deployment) == {"elabftw"}
    assert [row.run_kind for row in attempts_of(deployment)] == [RunKind.QUARANTINE] * 2


def test_a_record_that_runs_alone_respects_the_window(deploy: Deploy) -> None:
    """LabArchives is called by one worker at a time, whoever else has died."""
    deployment = deploy(labarchives(depends_on=()))
    hand_over(deployment, *records_to_export(2))
    started(deployment, "labarchives", 1)
    suspect(deployment, 2)
    assert send(deployment) == 0
    assert open_destinations(deployment, 2) == set()


def test_a_record_that_runs_alone_waits_for_its_time_and_for_a_well_destination(deploy: Deploy) -> None:
    deployment = deploy(cdcs(answer=lambda _: (_ for _ in ()).throw(TransientError("away"))))
    admin.pause(deployment, "cdcs")
    hand_over(deployment)
    suspect(deployment, 1)
    assert send(deployment) == 0
    admin.resume(deployment, "cdcs")
    work(deployment, "cdcs")
    assert send(deployment) == 0
    make_retrying_due(deployment)
    assert send(deployment) == 1
    assert kinds(deployment) == [RunKind.QUARANTINE] * 2


def test_what_survives_alone_is_as_good_as_any_other(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    admin.pause(deployment, "cdcs")
    hand_over(deployment)
    suspect(deployment, 1)
    admin.resume(deployment, "cdcs")
    assert work(deployment, "cdcs").record_status is SessionStatus.COMPLETED
    assert rows_of(deployment)["cdcs"].deaths == 0


def test_first_success_gives_its_place_to_others_while_a_lost_answer_is_unresolved(deploy: Deploy) -> None:
    """The first record may not go to eLabFTW yet; the second one may."""
    deployment = deploy(cdcs(), elabftw(depends_on=()), NX_EXPORT_STRATEGY="first_success", NX_WINDOWS="elabftw=1")
    admin.pause(deployment, "cdcs")
    admin.pause(deployment, "elabftw")
    hand_over(deployment, *records_to_export(2))
    with transaction(deployment.engine) as connection:
        connection.execute(
            text(
                "UPDATE delivery SET state = 'retrying', failures = 1, next_attempt_at = now() + interval '1 minute',"
                ' remote = CAST(\'{"record": {"unresolved_until": "2100-01-01T00:00:00+00:00"}}\' AS jsonb)'
                " WHERE record_id = 1 AND destination = 'cdcs'"
            )
        )
    store_waits(deployment, 1)
    admin.resume(deployment, "elabftw")
    assert open_destinations(deployment, 1) == set()
    assert open_destinations(deployment, 2) == {"elabftw"}


def test_messages_from_every_run_of_a_record_together_are_one_try_each(deploy: Deploy) -> None:
    """Whatever the broker delivers again, and however often: an old message changes nothing."""
    deployment = deploy(cdcs())
    hand_over(deployment)
    messages: list[Message] = []
    for _ in range(3):
        messages.append(message_for(deployment, "cdcs"))
        with transaction(deployment.engine) as connection:
            connection.execute(text("UPDATE run SET expected_by = now() - interval '1 second'"))
            connection.execute(text("UPDATE attempt SET started_at = now()"))
        send(deployment)
    work(deployment, "cdcs")
    before = everything(deployment)
    for message in messages:
        with pytest.raises(NotWantedError):
            start_message(deployment, message)
    assert everything(deployment) == before
