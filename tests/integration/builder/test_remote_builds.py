"""Builds by workers: what is asked for is built once, whatever message is lost and whoever dies."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from nexus_tasks import task_base
from nexus_tasks.broker import BrokerError
from nexus_tasks.builder import remote, tasks
from nexus_tasks.builder.readers import FileReader
from nexus_tasks.builder.record_builder import BuilderTools, process_new_records
from nexus_tasks.builder.remote import BUILD, MOST_DEATHS, enqueue_builds, publish_builds
from nexus_tasks.builder.tasks import DISPATCH_BUILDS
from nexus_tasks.db import builds, patience, records, sessions
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.delivery.snapshot import DependencyCycleError
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.registry import Registry
from nexus_tasks.queues import BUILDS_QUEUE
from nexus_tasks.sandbox.ports import free_port
from nexus_tasks.states import SessionStatus
from tests.integration.builder.conftest import Lab
from tests.integration.delivery.by_hand import cdcs, elabftw, empty_broker, messages_in

START = datetime(2025, 3, 3, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
LEASE = timedelta(minutes=15)

MakeWorker = Callable[[Deployment], Deployment]


@pytest.fixture(scope="module")
def reader() -> Iterator[FileReader]:
    with FileReader() as reader:
        yield reader


@pytest.fixture
def work_for(reader: FileReader, monkeypatch: pytest.MonkeyPatch) -> MakeWorker:
    """Have the tasks of this process belong to a deployment."""

    def at(deployment: Deployment) -> Deployment:
        tools = replace(BuilderTools.of(deployment), reader=reader)
        monkeypatch.setattr(task_base, "deployment_of", lambda _: deployment)
        monkeypatch.setattr(tasks, "_tools", lambda _: tools)
        return deployment

    return at


@pytest.fixture
def deployment(lab: Lab, tmp_path: Path) -> Deployment:
    """Three sessions of an hour, `s1` to `s3`, with two files each, and one destination."""
    made = replace(lab(NX_RUN_PATIENCE=100), registry=Registry((cdcs(),)))
    folder = tmp_path / "files" / "SEM"
    folder.mkdir()
    with transaction(made.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow("SEM-1", None, None, "SEM", "Europe/Berlin"))
        for number in (1, 2, 3):
            begin = START + number * HOUR
            row = SessionRow(f"s{number}", "SEM-1", begin, begin + HOUR, "ann", SessionStatus.TO_BE_BUILT)
            sessions.add_session(connection, row)
            for name, minutes in ((f"{number}a.txt", 10), (f"{number}b.txt", 20)):
                (folder / name).write_text(f"file {name}", encoding="utf-8")
                moment = (begin + timedelta(minutes=minutes)).timestamp()
                os.utime(folder / name, (moment, moment))
    return made


def build_by_message(deployment: Deployment, session: str) -> dict[str, Any]:
    """What a worker does with a message."""
    result: dict[str, Any] = deployment.app.tasks[BUILD].apply(kwargs={"session": session}, throw=True).get()
    return result


def queued(deployment: Deployment) -> int:
    return messages_in(deployment.settings.broker_url, BUILDS_QUEUE)[BUILDS_QUEUE]


def publish(deployment: Deployment) -> int:
    """What beat has a worker do."""
    return publish_builds(deployment)


def pass_time(deployment: Deployment, seconds: float) -> None:
    with transaction(deployment.engine) as connection:
        by = {"by": timedelta(seconds=seconds)}
        connection.execute(
            text(
                "UPDATE build_request SET asked_at = asked_at - :by, published_at = published_at - :by,"
                " begun_at = begun_at - :by, not_before = not_before - :by"
            ),
            by,
        )
        connection.execute(text("UPDATE build_claim SET expires_at = expires_at - :by"), by)


def status_of(deployment: Deployment, session: str) -> SessionStatus:
    with transaction(deployment.engine) as connection:
        return sessions.sessions(connection, [session])[0].status


def times_built(deployment: Deployment, session: str) -> int:
    with transaction(deployment.engine) as connection:
        query = text(
            "SELECT count(*) FROM session_log WHERE session_identifier = :session AND event_type = 'RECORD_GENERATION'"
        )
        return int(connection.execute(query, {"session": session}).scalar_one())


def document_of(deployment: Deployment, session: str) -> bytes:
    with transaction(deployment.engine) as connection:
        record = records.lock_of_session(connection, session)
    return (deployment.settings.records_path / record.document).read_bytes()


def under_way(deployment: Deployment, *sessions_: str) -> set[str]:
    with transaction(deployment.engine) as connection:
        found = builds.of_sessions(connection, sessions_ or ["s1", "s2", "s3"])
    return {session for session, build in found.items() if build.moving}


def problem_of(deployment: Deployment, session: str) -> str | None:
    with transaction(deployment.engine) as connection:
        found = builds.of_sessions(connection, [session])
    return found[session].problem if session in found else None


def die_in_build(deployment: Deployment, session: str) -> None:
    """What is left of a worker that was killed while it built."""
    with transaction(deployment.engine) as connection:
        assert builds.take(connection, session) is not None
        assert sessions.claim(connection, [session], LEASE) is not None
    empty_broker(deployment.settings.broker_url)


# --- destinations that nothing could be handed over to


def in_a_circle(deployment: Deployment) -> Deployment:
    return replace(deployment, registry=Registry((cdcs(depends_on=("elabftw",)), elabftw())))


class Unread(FileReader):
    def read(self, file: Any, **_: Any) -> Any:
        raise AssertionError(f"{file.path} was read")


def test_with_destinations_in_a_circle_nothing_is_built_and_no_session_is_an_error(deployment: Deployment) -> None:
    tools = replace(BuilderTools.of(deployment), reader=Unread())

    with pytest.raises(DependencyCycleError, match="cdcs, elabftw depend on each other in a circle"):
        process_new_records(in_a_circle(deployment), tools=tools)

    assert {status_of(deployment, session) for session in ("s1", "s2", "s3")} == {SessionStatus.TO_BE_BUILT}
    assert {outcome.status for outcome in process_new_records(deployment)} == {SessionStatus.BUILT_NOT_EXPORTED}


def test_a_worker_with_destinations_in_a_circle_says_so_and_leaves_the_session_to_be_asked_for_again(
    deployment: Deployment, work_for: MakeWorker
) -> None:
    enqueue_builds(deployment, ["s1"])
    work_for(in_a_circle(deployment))

    result = build_by_message(deployment, "s1")

    assert "depend on each other in a circle" in result["problem"]
    assert problem_of(deployment, "s1") == result["problem"]
    assert status_of(deployment, "s1") is SessionStatus.TO_BE_BUILT
    assert under_way(deployment) == set()
    work_for(deployment)
    assert enqueue_builds(deployment, ["s1"]).identifiers == ("s1",)
    assert build_by_message(deployment, "s1")["record_status"] == "BUILT_NOT_EXPORTED"


# --- asking


def test_each_session_that_is_to_be_built_gets_one_message(deployment: Deployment) -> None:
    assert enqueue_builds(deployment, None).identifiers == ("s1", "s2", "s3")
    assert queued(deployment) == 3


def test_asking_again_sends_nothing_more(deployment: Deployment) -> None:
    enqueue_builds(deployment, None)
    enqueue_builds(deployment, None)
    assert queued(deployment) == 3


def test_only_the_sessions_that_were_named_are_asked_for(deployment: Deployment) -> None:
    assert enqueue_builds(deployment, ["s2"]).identifiers == ("s2",)
    assert under_way(deployment) == {"s2"}


def test_what_needs_no_build_is_not_asked_for(deployment: Deployment, work_for: MakeWorker) -> None:
    process_new_records(work_for(deployment), identifiers=["s1"])
    assert enqueue_builds(deployment, ["s1"]).identifiers == ()
    assert enqueue_builds(deployment, ["s1"], rebuild=True).identifiers == ("s1",)


def test_without_a_broker_nothing_is_lost(deployment: Deployment) -> None:
    unreachable = replace(
        deployment,
        settings=deployment.settings.model_copy(),
        own_app=_app_with_broker(deployment, f"redis://127.0.0.1:{free_port()}/0"),
    )
    asked = enqueue_builds(unreachable, None)
    assert asked.identifiers == ("s1", "s2", "s3")
    assert "NX_BROKER_URL" in str(asked.broker_problem)
    with pytest.raises(BrokerError):
        publish(unreachable)
    assert publish(deployment) == 3


# --- building


def test_a_worker_builds_what_was_asked_for(deployment: Deployment, work_for: MakeWorker) -> None:
    enqueue_builds(work_for(deployment), None)
    result = build_by_message(deployment, "s2")
    assert result == {"session": "s2", "record_status": "BUILT_NOT_EXPORTED", "problem": None}
    assert status_of(deployment, "s2") is SessionStatus.BUILT_NOT_EXPORTED
    assert status_of(deployment, "s1") is SessionStatus.TO_BE_BUILT
    assert under_way(deployment) == {"s1", "s3"}


def test_a_record_is_the_same_bytes_whoever_builds_it(deployment: Deployment, work_for: MakeWorker) -> None:
    enqueue_builds(work_for(deployment), ["s1"])
    build_by_message(deployment, "s1")
    by_worker = document_of(deployment, "s1")
    process_new_records(deployment, identifiers=["s1"], rebuild=True)
    assert document_of(deployment, "s1") == by_worker
    assert times_built(deployment, "s1") == 1


def test_what_was_wrong_with_a_build_is_kept_although_workers_were_asked_meanwhile(deployment: Deployment) -> None:
    with transaction(deployment.engine) as connection:
        begun = builds.clock(connection)
    enqueue_builds(deployment, ["s1"])
    with transaction(deployment.engine) as connection:
        builds.end(connection, "s1", begun, "its files are damaged")
    assert problem_of(deployment, "s1") == "its files are damaged"
    assert under_way(deployment) == {"s1"}


def test_what_is_wrong_on_the_way_of_a_record_is_nothing_of_its_build(deployment: Deployment) -> None:
    away = _app_with_broker(deployment, f"redis://127.0.0.1:{free_port()}/0")
    (outcome,) = process_new_records(replace(deployment, own_app=away), identifiers=["s1"])
    assert "NX_BROKER_URL" in str(outcome.problem)
    assert problem_of(deployment, "s1") is None


def test_a_message_that_comes_twice_builds_once(deployment: Deployment, work_for: MakeWorker) -> None:
    enqueue_builds(work_for(deployment), ["s1"])
    build_by_message(deployment, "s1")
    assert build_by_message(deployment, "s1")["record_status"] is None
    assert times_built(deployment, "s1") == 1


def test_a_message_that_nobody_asked_for_builds_nothing(deployment: Deployment, work_for: MakeWorker) -> None:
    assert build_by_message(work_for(deployment), "s1")["record_status"] is None
    assert status_of(deployment, "s1") is SessionStatus.TO_BE_BUILT


def test_a_session_that_a_builder_works_on_is_left_to_it(deployment: Deployment, work_for: MakeWorker) -> None:
    enqueue_builds(work_for(deployment), ["s1"])
    die_in_build(deployment, "s1")  # or not: its lease is still running
    assert build_by_message(deployment, "s1")["record_status"] is None
    with transaction(deployment.engine) as connection:
        assert builds.take(connection, "s1") is None
    pass_time(deployment, 200)
    assert publish(deployment) == 0
    assert under_way(deployment) == {"s1"}


def test_a_build_here_does_what_workers_were_asked_for(deployment: Deployment, work_for: MakeWorker) -> None:
    enqueue_builds(work_for(deployment), None)
    process_new_records(deployment)
    assert under_way(deployment) == set()
    assert build_by_message(deployment, "s1")["record_status"] is None


def test_a_rebuild_is_done_by_a_worker(deployment: Deployment, work_for: MakeWorker, tmp_path: Path) -> None:
    process_new_records(work_for(deployment), identifiers=["s1"])
    late = tmp_path / "files" / "SEM" / "late.txt"
    late.write_text("late", encoding="utf-8")
    moment = (START + 1.7 * HOUR).timestamp()
    os.utime(late, (moment, moment))
    enqueue_builds(deployment, ["s1"], rebuild=True)
    build_by_message(deployment, "s1")
    assert b"late.txt" in document_of(deployment, "s1")
    assert under_way(deployment) == set()


def test_a_rebuild_that_is_asked_for_during_a_build_is_done_after_it(
    deployment: Deployment, work_for: MakeWorker, reader: FileReader
) -> None:
    process_new_records(work_for(deployment), identifiers=["s1"])
    enqueue_builds(deployment, ["s1"], rebuild=True)

    class AskedMeanwhile(FileReader):
        def read(self, *arguments: Any, **options: Any) -> Any:
            enqueue_builds(deployment, ["s1"], rebuild=True)
            return reader.read(*arguments, **options)

    tools = replace(BuilderTools.of(deployment), reader=AskedMeanwhile())
    process_new_records(deployment, identifiers=["s1"], rebuild=True, tools=tools)
    assert under_way(deployment) == {"s1"}
    build_by_message(deployment, "s1")
    assert under_way(deployment) == set()


def test_a_build_that_fails_has_ended_and_says_why(
    deployment: Deployment, work_for: MakeWorker, tmp_path: Path
) -> None:
    enqueue_builds(work_for(deployment), ["s1"])
    (tmp_path / "files" / "SEM").rename(tmp_path / "elsewhere")
    assert "check that the share is mounted" in build_by_message(deployment, "s1")["problem"]
    assert "check that the share is mounted" in str(problem_of(deployment, "s1"))
    assert under_way(deployment) == set()
    assert enqueue_builds(deployment, ["s1"]).identifiers == ("s1",)
    assert problem_of(deployment, "s1") is None


def test_a_worker_that_cannot_build_says_so(deployment: Deployment, work_for: MakeWorker) -> None:
    settings = deployment.settings.model_copy(update={"NX_INSTRUMENT_DATA_PATH": None})
    work_for(replace(deployment, settings=settings))
    enqueue_builds(deployment, ["s1"])
    assert "NX_INSTRUMENT_DATA_PATH is missing" in build_by_message(deployment, "s1")["problem"]
    assert under_way(deployment) == set()


def test_a_session_that_waits_for_files_is_looked_at_again_later(
    deployment: Deployment, work_for: MakeWorker, tmp_path: Path
) -> None:
    growing = tmp_path / "files" / "SEM" / "3b.txt"
    now = datetime.now(UTC)

    def ended(ago: timedelta) -> None:
        with transaction(deployment.engine) as connection:
            connection.execute(
                text("UPDATE session_log SET timestamp = :end WHERE session_identifier = 's3' AND event_type = 'END'"),
                {"end": now - ago},
            )

    ended(timedelta(seconds=1))
    os.utime(growing, ((now - timedelta(seconds=5)).timestamp(),) * 2)
    enqueue_builds(work_for(deployment), ["s3"])
    empty_broker(deployment.settings.broker_url)

    assert "may still be growing" in build_by_message(deployment, "s3")["problem"]
    assert "may still be growing" in str(problem_of(deployment, "s3"))
    assert under_way(deployment) == set()
    assert publish(deployment) == 0

    pass_time(deployment, builds.PUT_OFF.total_seconds())
    os.utime(growing, ((now - timedelta(seconds=90)).timestamp(),) * 2)
    ended(timedelta(seconds=85))
    assert publish(deployment) == 1
    assert build_by_message(deployment, "s3")["record_status"] == "BUILT_NOT_EXPORTED"
    assert problem_of(deployment, "s3") is None


# --- what is lost


def test_a_message_that_was_lost_is_sent_again(deployment: Deployment) -> None:
    enqueue_builds(deployment, None)
    empty_broker(deployment.settings.broker_url)
    assert publish(deployment) == 0  # a worker may have it in hand
    pass_time(deployment, 101)
    assert publish(deployment) == 3
    assert queued(deployment) == 3


def test_messages_that_wait_in_the_queue_are_not_sent_again(deployment: Deployment) -> None:
    enqueue_builds(deployment, None)
    pass_time(deployment, 10_000)
    assert publish(deployment) == 0
    assert queued(deployment) == 3


def test_the_queue_never_holds_more_messages_than_there_are_requests(deployment: Deployment) -> None:
    enqueue_builds(deployment, None)
    deployment.app.connection_for_write().default_channel.basic_get(BUILDS_QUEUE, no_ack=True)  # one is lost
    for _ in range(4):
        pass_time(deployment, 101)
        publish(deployment)
    assert queued(deployment) == 3


def test_a_backlog_stays_in_the_database(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MOST_MESSAGES", 2)
    enqueue_builds(deployment, None)
    assert queued(deployment) == 2
    empty_broker(deployment.settings.broker_url)  # or taken by workers
    assert publish(deployment) == 1


def test_a_session_whose_builder_died_is_built_by_another(deployment: Deployment, work_for: MakeWorker) -> None:
    enqueue_builds(work_for(deployment), ["s1"])
    die_in_build(deployment, "s1")
    pass_time(deployment, LEASE.total_seconds() + 1)
    assert publish(deployment) == 1
    assert build_by_message(deployment, "s1")["record_status"] == "BUILT_NOT_EXPORTED"
    assert times_built(deployment, "s1") == 1


def test_a_session_that_kills_its_builders_is_given_up(deployment: Deployment) -> None:
    enqueue_builds(deployment, ["s1"])
    for death in range(1, MOST_DEATHS + 1):
        die_in_build(deployment, "s1")
        pass_time(deployment, LEASE.total_seconds() + 1)
        assert publish(deployment) == (1 if death < MOST_DEATHS else 0)
    assert status_of(deployment, "s1") is SessionStatus.ERROR
    assert "died 3 times" in str(problem_of(deployment, "s1"))
    assert under_way(deployment) == set()
    assert enqueue_builds(deployment, ["s1"], rebuild=True).identifiers == ("s1",)


def test_a_record_stands_although_its_rebuild_is_given_up(deployment: Deployment, work_for: MakeWorker) -> None:
    process_new_records(work_for(deployment), identifiers=["s1"])
    enqueue_builds(deployment, ["s1"], rebuild=True)
    for _ in range(MOST_DEATHS):
        with transaction(deployment.engine) as connection:
            builds.take(connection, "s1")
        pass_time(deployment, 101)
        publish(deployment)
    assert status_of(deployment, "s1") is SessionStatus.BUILT_NOT_EXPORTED
    assert problem_of(deployment, "s1") is not None


def test_a_session_without_a_record_is_an_error_when_its_rebuild_is_given_up(deployment: Deployment) -> None:
    with transaction(deployment.engine) as connection:
        sessions.set_status(connection, "s1", SessionStatus.NO_FILES_FOUND)
    enqueue_builds(deployment, ["s1", "s2"], rebuild=True)  # s2 is to be built anyway
    for _ in range(MOST_DEATHS):
        for session in ("s1", "s2"):
            with transaction(deployment.engine) as connection:
                assert builds.take(connection, session)
        pass_time(deployment, 101)
        publish(deployment)
    assert {status_of(deployment, session) for session in ("s1", "s2")} == {SessionStatus.ERROR}


class Outage:
    """A query whose database is away for the first of its calls."""

    def __init__(self, call: Callable[..., Any], *, times: int = 1) -> None:
        self.call = call
        self.left = times

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left:
            self.left -= 1
            raise DatabaseError("The database cannot be used: it is being restarted.")
        return self.call(*arguments, **options)


def test_a_build_that_a_restart_of_the_database_broke_off_is_tried_again_at_once(
    deployment: Deployment, work_for: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_builds(work_for(deployment), ["s1"])
    monkeypatch.setattr(patience, "DATABASE_POLL_S", 0)
    monkeypatch.setattr(sessions, "renew", Outage(sessions.renew))
    monkeypatch.setattr(sessions, "release", Outage(sessions.release, times=2))

    deployment.app.tasks[BUILD].apply(kwargs={"session": "s1"})

    assert status_of(deployment, "s1") is SessionStatus.BUILT_NOT_EXPORTED
    assert under_way(deployment) == set()
    assert times_built(deployment, "s1") == 1


def test_what_a_build_came_to_is_written_down_when_the_database_is_back(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_builds(deployment, ["s1"])
    monkeypatch.setattr(patience, "DATABASE_POLL_S", 0)
    monkeypatch.setattr(builds, "end", Outage(builds.end, times=2))

    process_new_records(deployment, identifiers=["s1"])

    assert under_way(deployment) == set()


def test_a_database_that_is_away_again_and_again_is_no_death_of_a_builder(
    deployment: Deployment, work_for: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_builds(work_for(deployment), ["s1"])
    with monkeypatch.context() as away:
        away.setattr(sessions, "renew", Outage(sessions.renew, times=MOST_DEATHS + 1))
        for _ in range(MOST_DEATHS + 1):
            with transaction(deployment.engine) as connection:
                assert builds.take(connection, "s1") is False
            with pytest.raises(DatabaseError):
                process_new_records(deployment, identifiers=["s1"])
            empty_broker(deployment.settings.broker_url)
            assert publish(deployment) == 0  # whoever was at it tries again
            pass_time(deployment, 101)
            assert publish(deployment) == 1
    assert status_of(deployment, "s1") is SessionStatus.TO_BE_BUILT
    assert build_by_message(deployment, "s1")["record_status"] == "BUILT_NOT_EXPORTED"


def test_what_one_dispatch_is_about_to_send_another_leaves_alone(deployment: Deployment) -> None:
    with transaction(deployment.engine) as connection:
        builds.ask(connection, None, rebuild=False)
    with transaction(deployment.engine) as one, transaction(deployment.engine) as another:
        assert len(builds.lock_unsent(one, 2, 0, HOUR)) == 2
        assert len(builds.lock_unsent(another, 9, 9, HOUR)) == 1


def test_dispatches_at_once_send_each_message_once(deployment: Deployment) -> None:
    unreachable = replace(deployment, own_app=_app_with_broker(deployment, f"redis://127.0.0.1:{free_port()}/0"))
    enqueue_builds(unreachable, None)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: publish(deployment), range(4))) == 3
    assert queued(deployment) == 3


def test_beat_has_a_worker_send_what_was_lost(deployment: Deployment, work_for: MakeWorker) -> None:
    enqueue_builds(work_for(deployment), None)
    empty_broker(deployment.settings.broker_url)
    pass_time(deployment, 101)
    assert deployment.app.tasks[DISPATCH_BUILDS].apply(throw=True).get() == 3


def _app_with_broker(deployment: Deployment, url: str) -> Any:
    from nexus_tasks.celery import create_app

    settings = deployment.settings.model_copy(
        update={"NX_BROKER_URL": type(deployment.settings.NX_BROKER_URL)(url), "NX_RESULT_BACKEND_URL": None}
    )
    app = create_app(settings, deployment.registry)
    deployment.app.set_current()
    return app
