"""What `status` says that needs attention, from rows as the workers write them."""

from collections.abc import Mapping, Sequence
from uuid import uuid4

import pytest
from sqlalchemy import text

from nexus_tasks.db import builds, handover, revisions, workers
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.troubles import troubles
from nexus_tasks.delivery import admin
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import PermanentError, TransientError
from nexus_tasks.monitoring.attention import attention, database_of_another_version
from nexus_tasks.states import SessionStatus
from tests.integration.delivery.by_hand import (
    REBUILT,
    SESSION,
    Deploy,
    cdcs,
    elabftw,
    hand_over,
    raising,
    send,
    states_of,
    work,
    work_again,
)

NEWEST = "0002"  # a revision that is not written yet
ALL = ("export.cdcs", "export.elabftw", "exports", "builds")
STORES = {"NX_DATA_PATH": "one", "NX_RECORDS_PATH": "one"}


def worker(
    deployment: Deployment,
    name: str = "first@host",
    *,
    queues: Sequence[str] = ALL,
    ahead: float = 0.0,
    stores: Mapping[str, str] = STORES,
) -> None:
    """Have a worker say that it runs."""
    with transaction(deployment.engine) as connection:
        workers.present(connection, name, uuid4(), queues=queues, version="1", clock_offset_s=ahead, stores=stores)


def beat(deployment: Deployment) -> None:
    with transaction(deployment.engine) as connection:
        workers.heard_of_beat(connection)


def silence(deployment: Deployment, seconds: float) -> None:
    """Have that much time pass without a word of anybody."""
    with transaction(deployment.engine) as connection:
        for table in ("worker", "sign_of_life"):
            connection.execute(text(f"UPDATE {table} SET seen_at = seen_at - {seconds} * interval '1 second'"))


def messages(deployment: Deployment, about: str | None = None) -> list[str]:
    return [finding.message for finding in attention(deployment) if about in {None, finding.about}]


def test_nothing_needs_attention_where_everything_runs(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    worker(deployment)
    beat(deployment)
    assert messages(deployment) == []


def test_nothing_needs_attention_where_nothing_runs_and_nothing_waits(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    assert messages(deployment) == []
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")
    assert messages(deployment) == []


# --- queues


def test_deliveries_that_wait_without_any_worker_are_one_finding(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    [message] = messages(deployment)
    assert message.startswith("No worker runs (1 deliveries wait")
    assert message.endswith("start `celery -A nexus_tasks worker`.")


def test_a_queue_that_no_worker_reads_is_named_while_something_waits_for_it(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    worker(deployment, queues=("export.cdcs", "exports"))
    beat(deployment)
    [message] = messages(deployment)
    assert message.startswith("No worker reads the queue export.elabftw (1 deliveries wait): ")
    assert "`celery -A nexus_tasks worker -Q export.elabftw`" in message
    worker(deployment, "second@host", queues=("export.elabftw",))
    assert messages(deployment) == []


def test_a_build_that_was_asked_for_needs_a_worker_for_builds(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    worker(deployment, queues=("export.cdcs", "exports"))
    beat(deployment)
    with transaction(deployment.engine) as connection:
        connection.execute(text("INSERT INTO build_request (session_identifier, rebuild) VALUES ('s', false)"))
    [message] = messages(deployment)
    assert "the queue builds (1 builds wait)" in message


def test_a_worker_that_is_silent_for_long_reads_nothing(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    worker(deployment)
    silence(deployment, 90)
    assert messages(deployment, "queue") == []
    silence(deployment, 20)
    assert len(messages(deployment, "queue")) == 1


def test_a_worker_that_is_gone_is_forgotten_when_another_one_speaks(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    worker(deployment, "gone@host")
    silence(deployment, 700)
    worker(deployment)
    with transaction(deployment.engine) as connection:
        assert list(connection.execute(text("SELECT name FROM worker")).scalars()) == ["first@host"]


# --- beat


def test_a_beat_that_was_never_heard_of_is_said(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    worker(deployment)
    [message] = messages(deployment)
    assert message.startswith("Beat has asked for no dispatch so far")


def test_a_beat_is_silent_after_ten_intervals(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), NX_DISPATCH_INTERVAL="5")
    worker(deployment)
    beat(deployment)
    silence(deployment, 45)
    assert messages(deployment) == []
    silence(deployment, 10)
    [message] = messages(deployment)
    assert "no dispatch for 55 s" in message


def test_nothing_is_said_of_beat_where_nobody_reads_its_messages(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw())
    hand_over(deployment)
    worker(deployment, queues=("export.cdcs", "export.elabftw"))
    [message] = messages(deployment)
    assert "the queue exports (nothing is planned or settled)" in message


# --- clocks and folders


@pytest.mark.parametrize(("ahead", "said"), [(4.9, None), (-4.9, None), (5.2, "5 s ahead of"), (-7200, "2 h behind")])
def test_a_clock_that_is_off_is_said(deploy: Deploy, ahead: float, said: str | None) -> None:
    deployment = deploy(cdcs())
    worker(deployment, ahead=ahead)
    beat(deployment)
    found = messages(deployment)
    assert len(found) == (said is not None)
    assert said is None or f"The clock of the worker first@host is {said} PostgreSQL's" in found[0]


def test_workers_that_see_different_folders_are_named(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    beat(deployment)
    worker(deployment, "a@one")
    worker(deployment, "b@one")
    worker(deployment, "c@two", stores={"NX_DATA_PATH": "one", "NX_RECORDS_PATH": "other"})
    assert messages(deployment) == [
        "a@one, b@one and c@two see different folders by NX_RECORDS_PATH: it must be one, shared by all workers."
    ]


def test_a_worker_that_sees_no_folder_is_named(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    beat(deployment)
    worker(deployment, "a@one")
    worker(deployment, "c@two", stores={"NX_DATA_PATH": "", "NX_RECORDS_PATH": "one"})
    [message] = messages(deployment)
    assert message.startswith("c@two cannot use the folder of NX_DATA_PATH")


# --- destinations and database


def test_a_destination_that_is_paused_or_has_invalid_settings_is_said(deploy: Deploy) -> None:
    deployment = deploy(cdcs(), elabftw(valid=lambda: (False, "NX_ELABFTW_API_KEY is missing")))
    worker(deployment)
    beat(deployment)
    admin.pause(deployment, "cdcs")
    assert messages(deployment) == [
        "elabftw takes no records: NX_ELABFTW_API_KEY is missing",
        "cdcs takes no records, they wait for it: paused by an operator",
    ]


def test_a_destination_that_cannot_tell_of_its_settings_stops_nothing(deploy: Deploy) -> None:
    def forgetful() -> tuple[bool, str | None]:
        raise KeyError("s3cret")

    deployment = deploy(cdcs(valid=forgetful), elabftw(valid=lambda: (False, None)))
    worker(deployment)
    beat(deployment)
    assert messages(deployment) == [
        "cdcs takes no records: The plugin cdcs failed (KeyError): tell its author.",
        "elabftw takes no records: it does not say why",
    ]


# --- what has failed


REFUSED = raising(PermanentError("it does not fit the schema"))
AWAY = raising(TransientError("CDCS is away"))


def test_a_delivery_that_has_failed_is_said_until_it_has_succeeded(deploy: Deploy) -> None:
    destination = cdcs(answer=REFUSED)
    deployment = deploy(destination, elabftw())
    hand_over(deployment)
    work(deployment, "cdcs", "elabftw")

    [message] = messages(deployment, "delivery")
    assert message.startswith("1 deliveries to cdcs have failed (`nexus-tasks status --failed` lists them)")
    assert "`nexus-tasks retry --failed --destination cdcs`" in message
    with transaction(deployment.engine) as connection:
        assert troubles(connection).sessions == [SESSION]

    destination.answer = None
    admin.retry(deployment, None, only_failed=True)
    work(deployment, "cdcs")
    assert messages(deployment, "delivery") == []


@pytest.mark.parametrize("failed_before", [True, False])
def test_a_delivery_that_a_person_gave_up_is_said_no_more(deploy: Deploy, failed_before: bool) -> None:
    deployment = deploy(cdcs(answer=REFUSED if failed_before else AWAY))
    hand_over(deployment)
    work(deployment, "cdcs")
    assert len(messages(deployment, "delivery")) == failed_before

    admin.abandon(deployment, SESSION, "cdcs")
    assert states_of(deployment) == {"cdcs": "failed"}
    assert messages(deployment, "delivery") == []
    with pytest.raises(admin.AdminError, match="abandoned already"):
        admin.abandon(deployment, SESSION, "cdcs")

    hand_over(deployment, REBUILT)
    assert states_of(deployment) == {"cdcs": "failed"}
    assert messages(deployment, "delivery") == []


def test_under_first_success_a_failure_counts_while_no_other_destination_holds_the_record(deploy: Deploy) -> None:
    other = elabftw(answer=REFUSED)
    deployment = deploy(cdcs(answer=REFUSED), other, NX_EXPORT_STRATEGY="first_success")
    hand_over(deployment)
    work(deployment, "cdcs")
    send(deployment)
    work(deployment, "elabftw")
    assert len(messages(deployment, "delivery")) == 2

    other.answer = None
    admin.retry(deployment, [SESSION], destination="elabftw")
    work(deployment, "elabftw")
    assert messages(deployment, "delivery") == []


def age(deployment: Deployment, hours: float) -> None:
    """Have all tries be that old."""
    with transaction(deployment.engine) as connection:
        connection.execute(text(f"UPDATE attempt SET started_at = now() - {hours} * interval '1 hour'"))


def test_deliveries_that_fail_for_more_than_a_day_are_said(deploy: Deploy) -> None:
    destination = cdcs(answer=AWAY)
    deployment = deploy(destination)
    hand_over(deployment)
    work(deployment, "cdcs")
    age(deployment, 23)
    assert messages(deployment, "delivery") == []
    age(deployment, 25)
    [message] = messages(deployment, "delivery")
    assert message.startswith("1 deliveries to cdcs have been failing for more than a day")

    destination.answer = None
    work_again(deployment, "cdcs")
    assert messages(deployment, "delivery") == []


def test_tries_before_the_last_success_do_not_make_a_delivery_old(deploy: Deploy) -> None:
    destination = cdcs()
    deployment = deploy(destination)
    hand_over(deployment)
    work(deployment, "cdcs")
    age(deployment, 100)
    destination.answer = AWAY
    hand_over(deployment, REBUILT)
    work(deployment, "cdcs")
    assert states_of(deployment) == {"cdcs": "retrying"}
    assert messages(deployment, "delivery") == []


def in_error(deployment: Deployment, identifier: str, problem: str | None) -> None:
    """Have a session be there whose record could not be built."""
    with transaction(deployment.engine) as connection:
        connection.execute(text("INSERT INTO instruments (instrument_pid) VALUES ('SEM-1') ON CONFLICT DO NOTHING"))
        moment = builds.clock(connection)
        events = [("RECORD_GENERATION", moment)]
        handover.record_generated(connection, identifier, "SEM-1", None, events, SessionStatus.ERROR)
        builds.end(connection, identifier, moment, problem)


def test_sessions_that_could_not_be_built_here_are_said(deploy: Deploy) -> None:
    deployment = deploy(cdcs())
    in_error(deployment, "s1", "The record does not match")
    in_error(deployment, "s2", "The record does not match")
    in_error(deployment, "of another program", None)
    [message] = messages(deployment)
    assert message.startswith("2 sessions could not be built (`nexus-tasks status --failed` lists them)")
    with transaction(deployment.engine) as connection:
        assert troubles(connection).sessions == ["s1", "s2"]
        assert builds.give_up(connection, "s1")
        assert not builds.give_up(connection, "s1")
        assert not builds.give_up(connection, "of another program")
        assert troubles(connection).sessions == ["s2"]


@pytest.mark.parametrize(("revision", "said"), [("0001", "run `nexus-tasks db upgrade`"), ("9999", "does not know")])
def test_a_database_of_another_version_is_said(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, revision: str, said: str
) -> None:
    deployment = deploy(cdcs())
    assert database_of_another_version(deployment) is None
    monkeypatch.setattr(revisions, "known", lambda: ["0001", NEWEST])  # the first revision is an older one to it
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    finding = database_of_another_version(deployment)
    assert finding is not None
    assert finding.about == "database"
    assert said in finding.message
    assert (NEWEST in finding.message) == (revision == "0001")
