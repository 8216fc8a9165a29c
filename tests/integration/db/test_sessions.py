import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine

from nexus_tasks.db import handover, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow
from nexus_tasks.states import SessionStatus
from tests.integration.db import INSTRUMENT, START, add_session

LEASE = timedelta(minutes=5)
OVER = timedelta(seconds=-1)  # a lease that has ended already
BUILDERS = 8


def claim(engine: Engine, lease: timedelta = LEASE, *identifiers: str) -> tuple[str, UUID] | None:
    """One claim in its own transaction, as builders make it."""
    with transaction(engine) as connection:
        claimed = sessions.claim(connection, identifiers or None, lease)
    return claimed and (claimed[0].session_identifier, claimed[1])


def add(engine: Engine, *identifiers: str, status: SessionStatus = SessionStatus.TO_BE_BUILT) -> None:
    with transaction(engine) as connection:
        for hour, identifier in enumerate(identifiers):
            add_session(connection, identifier, status, hour)


def status_of(engine: Engine, identifier: str) -> SessionStatus:
    with transaction(engine) as connection:
        [session] = sessions.sessions(connection, [identifier])
    return session.status


def test_builders_at_once_claim_each_session_exactly_once(engine: Engine) -> None:
    identifiers = [f"session-{number:02}" for number in range(50)]
    add(engine, *identifiers)
    together = threading.Barrier(BUILDERS)

    def build_all(_: int) -> list[str]:
        together.wait(10)
        mine = []
        while (claimed := claim(engine)) is not None:
            mine.append(claimed[0])
        return mine

    with ThreadPoolExecutor(BUILDERS) as pool:
        claimed = Counter(identifier for mine in pool.map(build_all, range(BUILDERS)) for identifier in mine)
    assert claimed == Counter(identifiers)


def test_builders_that_finish_at_once_build_nothing_twice(engine: Engine) -> None:
    identifiers = [f"session-{number:02}" for number in range(50)]
    add(engine, *identifiers)
    together = threading.Barrier(BUILDERS)

    def build_all(_: int) -> list[str]:
        together.wait(10)
        mine = []
        while (claimed := claim(engine)) is not None:
            identifier, token = claimed
            with transaction(engine) as connection:
                sessions.set_status(connection, identifier, SessionStatus.BUILT_NOT_EXPORTED)
                assert sessions.release(connection, identifier, token)
            mine.append(identifier)
        return mine

    with ThreadPoolExecutor(BUILDERS) as pool:
        built = Counter(identifier for mine in pool.map(build_all, range(BUILDERS)) for identifier in mine)
    assert built == Counter(identifiers)


def test_the_oldest_session_is_claimed_first(engine: Engine) -> None:
    add(engine, "first", "second", "third")
    assert [claimed and claimed[0] for claimed in (claim(engine) for _ in range(4))] == [
        "first",
        "second",
        "third",
        None,
    ]


@pytest.mark.parametrize("status", [status for status in SessionStatus if status is not SessionStatus.TO_BE_BUILT])
def test_only_what_is_to_be_built_is_claimed(engine: Engine, status: SessionStatus) -> None:
    add(engine, "session", status=status)
    assert claim(engine) is None


def test_a_builder_may_ask_for_certain_sessions_and_pass_others_over(engine: Engine) -> None:
    add(engine, "first", "second", "third")
    claimed = claim(engine, LEASE, "second")
    assert claimed is not None
    assert claimed[0] == "second"
    with transaction(engine) as connection:
        third = sessions.claim(connection, None, LEASE, passed_over=["first"])
    assert third is not None
    assert third[0].session_identifier == "third"


def test_a_claimed_session_comes_with_what_the_builder_needs(engine: Engine) -> None:
    add(engine, "session")
    with transaction(engine) as connection:
        claimed = sessions.claim(connection, None, LEASE)
    assert claimed is not None
    session, _ = claimed
    assert session.instrument_pid == INSTRUMENT
    assert (session.start, session.end) == (START, START + timedelta(hours=2))
    assert session.user == "jsmith"


def test_a_live_claim_is_not_taken_again(engine: Engine) -> None:
    add(engine, "session")
    assert claim(engine) is not None
    assert claim(engine) is None


def test_an_expired_claim_is_taken_again_and_the_first_builder_learns_of_it(engine: Engine) -> None:
    add(engine, "session")
    first = claim(engine, OVER)
    second = claim(engine)
    assert first is not None
    assert second is not None
    assert first[1] != second[1]
    with transaction(engine) as connection:
        assert not sessions.renew(connection, *first, LEASE)
        assert not sessions.release(connection, *first)
    assert claim(engine) is None  # the second one still holds it
    with transaction(engine) as connection:
        assert sessions.release(connection, *second)


def test_builders_at_once_take_an_expired_claim_once(engine: Engine) -> None:
    add(engine, "session")
    claim(engine, OVER)
    together = threading.Barrier(BUILDERS)

    def take_over(_: int) -> tuple[str, UUID] | None:
        together.wait(10)
        return claim(engine)

    with ThreadPoolExecutor(BUILDERS) as pool:
        assert len([taken for taken in pool.map(take_over, range(BUILDERS)) if taken]) == 1


def test_a_renewed_claim_lasts(engine: Engine) -> None:
    add(engine, "session")
    claimed = claim(engine, OVER)
    assert claimed is not None
    with transaction(engine) as connection:
        assert sessions.renew(connection, *claimed, LEASE)
    assert claim(engine) is None


def test_a_wrong_token_neither_renews_nor_releases(engine: Engine) -> None:
    add(engine, "session")
    claim(engine)
    with transaction(engine) as connection:
        assert not sessions.renew(connection, "session", uuid4(), LEASE)
        assert not sessions.release(connection, "session", uuid4())
        assert not sessions.release(connection, "another session", uuid4())
    assert claim(engine) is None


def test_a_released_session_can_be_claimed_again(engine: Engine) -> None:
    add(engine, "session")
    claimed = claim(engine)
    assert claimed is not None
    with transaction(engine) as connection:
        assert sessions.release(connection, *claimed)
        assert not sessions.release(connection, *claimed)
    assert claim(engine) is not None


@pytest.mark.parametrize("status", [status for status in SessionStatus if status is not SessionStatus.COMPLETED])
def test_completed_is_never_taken_back(engine: Engine, status: SessionStatus) -> None:
    add(engine, "session")
    with transaction(engine) as connection:
        assert sessions.set_status(connection, "session", SessionStatus.COMPLETED)
        assert not sessions.set_status(connection, "session", SessionStatus.COMPLETED)
        assert not sessions.set_status(connection, "session", status)
    assert status_of(engine, "session") is SessionStatus.COMPLETED


def test_a_status_is_that_of_one_session_only(engine: Engine) -> None:
    add(engine, "session", "other")
    with transaction(engine) as connection:
        sessions.set_status(connection, "session", SessionStatus.ERROR)
    assert status_of(engine, "session") is SessionStatus.ERROR
    assert status_of(engine, "other") is SessionStatus.TO_BE_BUILT


def test_a_generated_record_is_an_event_of_its_session(engine: Engine) -> None:
    add(engine, "session", status=SessionStatus.BUILT_NOT_EXPORTED)
    with transaction(engine) as connection:
        generated = [("RECORD_GENERATION", START + timedelta(days=3))]
        handover.record_generated(
            connection, "session", INSTRUMENT, "jsmith", generated, SessionStatus.BUILT_NOT_EXPORTED
        )
    with transaction(engine) as connection:
        [session] = sessions.sessions(connection)
        assert (session.start, session.end) == (START, START + timedelta(hours=2))
        sessions.set_status(connection, "session", SessionStatus.COMPLETED)
        rows = connection.exec_driver_sql("SELECT event_type, record_status FROM session_log ORDER BY 1").all()
    assert [tuple(row) for row in rows] == [
        ("END", "COMPLETED"),
        ("RECORD_GENERATION", "COMPLETED"),
        ("START", "COMPLETED"),
    ]


def test_an_instrument_added_again_is_brought_up_to_date(connection: Connection) -> None:
    assert sessions.add_instrument(connection, InstrumentRow("Titan", None, None, None, "UTC"))
    moved = InstrumentRow("Titan", "FEI Titan", "Room 7", "Titan_data", "Europe/Berlin")
    assert not sessions.add_instrument(connection, moved)
    assert sessions.instruments(connection) == [moved]
    assert sessions.get_instrument(connection, "Talos") is None


def test_an_instrument_can_be_brought_up_to_date_in_part(connection: Connection) -> None:
    known = InstrumentRow("Titan", "FEI Titan", "Room 7", "Titan", "Europe/Berlin", 90.5)
    sessions.add_instrument(connection, known)
    other = InstrumentRow("Titan", None, None, "Titan_data", "UTC")

    assert not sessions.add_instrument(connection, other, only=["filestore_path"])
    assert sessions.instruments(connection) == [replace(known, filestore_path="Titan_data")]
    assert not sessions.add_instrument(connection, other, only=[])
    assert sessions.add_instrument(connection, replace(other, instrument_pid="Talos"), only=[])


def test_the_offset_of_an_instruments_clock_is_kept(connection: Connection) -> None:
    ahead = InstrumentRow("Titan", None, None, "Titan", "UTC", 90.5)
    sessions.add_instrument(connection, ahead)
    assert sessions.get_instrument(connection, "Titan") == ahead


def test_what_is_said_about_a_session_is_kept_until_something_else_is_said(connection: Connection) -> None:
    assert sessions.details(connection, ["session"]) == {}
    sessions.set_details(connection, "session", {"title": "first"})
    sessions.set_details(connection, "other", {"title": "another"})
    sessions.set_details(connection, "session", {"title": "second"})
    assert sessions.details(connection, ["session", "unknown"]) == {"session": {"title": "second"}}


def test_those_that_look_and_then_add_take_turns(engine: Engine) -> None:
    together = threading.Barrier(BUILDERS)

    def add_if_missing(_: int) -> bool:
        together.wait(10)
        with transaction(engine) as connection:
            sessions.add_one_at_a_time(connection)
            missing = not sessions.sessions(connection, ["session"])
            if missing:
                add_session(connection, "session")
        return missing

    with ThreadPoolExecutor(BUILDERS) as pool:
        assert sum(pool.map(add_if_missing, range(BUILDERS))) == 1
