"""Queries about builds that workers were asked for: `builder.remote` asks and publishes, `builder.tasks` takes them.

A request is open until a builder has come to an end with its session. It stands here and not only in a message, so that
neither a broker that loses messages nor a worker that dies loses a build. What was wrong with a build is kept here as
well, whoever asked for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Update, and_, exists, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.among import among
from nexus_tasks.db.models import BuildClaim, BuildRequest, SessionLog
from nexus_tasks.db.sessions import BUILT_BEFORE
from nexus_tasks.states import SessionStatus

PUT_OFF = timedelta(minutes=10)  # before a session is looked at again whose files were not there, or not whole


@dataclass(frozen=True)
class Unsent:
    """An open request whose message is to go out. `again`: one was sent before, and has not been heard of."""

    session_identifier: str
    again: bool


@dataclass(frozen=True)
class Build:
    """What is known of building one session."""

    under_way: bool  # a builder holds it
    asked: bool  # workers are to build it
    not_before: datetime | None  # when they look again for files that were not there or not whole
    problem: str | None  # of the last build, or what it waits for

    @property
    def moving(self) -> bool:
        """Whether it goes on without anybody's help, and without waiting for files."""
        return self.under_way or (self.asked and self.not_before is None)


def clock(connection: Connection) -> datetime:
    """The time by PostgreSQL's clock, the same in all of a transaction."""
    return connection.execute(select(func.now())).scalar_one()


def ask(connection: Connection, identifiers: Sequence[str] | None, *, rebuild: bool) -> list[str]:
    """Ask for the builds of the sessions that are `TO_BE_BUILT`, or those of `identifiers` that are; oldest first.

    With `rebuild`, those of `identifiers` that were built before as well. A request that is open stays as it is, but
    a rebuild, and a build that was put off, begin anew when they are asked for again.
    """
    statuses = BUILT_BEFORE if rebuild else {SessionStatus.TO_BE_BUILT}
    wanted = (
        select(SessionLog.session_identifier)
        .where(SessionLog.record_status.in_(statuses))
        .group_by(SessionLog.session_identifier)
        .order_by(func.min(SessionLog.timestamp), SessionLog.session_identifier)
    )
    if identifiers is not None:
        wanted = wanted.where(among(SessionLog.session_identifier, identifiers))
    asked = list(connection.execute(wanted).scalars())
    if asked:
        statement = insert(BuildRequest)
        anew = {
            "rebuild": statement.excluded.rebuild,
            "asked_at": func.clock_timestamp(),
            "published_at": None,
            "not_before": None,
            "begun_at": None,
            "deaths": 0,
            "ended_at": None,
            "problem": None,
        }
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[BuildRequest.session_identifier],
                set_=anew,
                where=or_(
                    BuildRequest.ended_at.is_not(None), BuildRequest.not_before.is_not(None), statement.excluded.rebuild
                ),
            ),
            [{"session_identifier": identifier, "rebuild": rebuild} for identifier in asked],
        )
    return asked


def take(connection: Connection, identifier: str) -> bool | None:
    """Note that a worker begins with a request: whether it is a rebuild, None when nothing is to be done.

    Nothing is to be done when the build was not asked for or has ended, or while a builder is at work on the session.
    """
    statement = (
        update(BuildRequest)
        .where(BuildRequest.session_identifier == identifier, BuildRequest.ended_at.is_(None), ~_claimed())
        .values(begun_at=func.now(), not_before=None)
        .returning(BuildRequest.rebuild)
    )
    return connection.execute(statement).scalar_one_or_none()


def end(connection: Connection, identifier: str, begun: datetime, problem: str | None) -> None:
    """Note that a builder which began at `begun` has come to an end with the session; no matter if nobody asked.

    A request that was made later stays open, and so does one of whose session another builder has taken hold.
    """
    ended = {"ended_at": func.now(), "problem": problem}
    known = connection.execute(_of(identifier, begun).values(ended).returning(BuildRequest.session_identifier))
    if known.first() is None and problem is not None:
        statement = insert(BuildRequest).values(session_identifier=identifier, rebuild=False, asked_at=begun, **ended)
        connection.execute(  # of a request that was made meanwhile only the reason is new
            statement.on_conflict_do_update(
                index_elements=[BuildRequest.session_identifier],
                set_={"problem": problem},
                where=BuildRequest.asked_at > begun,
            )
        )


def put_off(connection: Connection, identifier: str, begun: datetime, problem: str | None) -> None:
    """As `end`, for a session that time will mend: the request stays open, and is sent again later."""
    asked = connection.execute(
        _of(identifier, begun)
        .where(BuildRequest.ended_at.is_(None))
        .values(not_before=func.now() + literal(PUT_OFF), published_at=None, begun_at=None, problem=problem)
        .returning(BuildRequest.session_identifier)
    )
    if asked.first() is None:
        end(connection, identifier, begun, problem)


def interrupted(connection: Connection, identifier: str) -> None:
    """Note that a builder gives the session back and lives on: its message comes again, and no death is counted."""
    connection.execute(
        update(BuildRequest)
        .where(
            BuildRequest.session_identifier == identifier,
            BuildRequest.ended_at.is_(None),
            BuildRequest.begun_at.is_not(None),
        )
        .values(begun_at=None, published_at=func.now())
    )


def give_up(connection: Connection, identifier: str) -> bool:
    """Forget what was wrong with the build of a session in `ERROR`, so that nobody is told any more; False if not."""
    in_error = exists().where(
        SessionLog.session_identifier == BuildRequest.session_identifier,
        SessionLog.record_status == SessionStatus.ERROR,
    )
    statement = (
        update(BuildRequest)
        .where(BuildRequest.session_identifier == identifier, BuildRequest.problem.is_not(None), in_error)
        .values(problem=None)
        .returning(BuildRequest.session_identifier)
    )
    return connection.execute(statement).one_or_none() is not None


def _of(identifier: str, begun: datetime) -> Update:
    return update(BuildRequest).where(
        BuildRequest.session_identifier == identifier, BuildRequest.asked_at <= begun, ~_claimed()
    )


def of_sessions(connection: Connection, identifiers: Sequence[str]) -> dict[str, Build]:
    """What is known of building these sessions; those of which nothing is known are left out."""
    held = select(BuildClaim.session_identifier).where(
        among(BuildClaim.session_identifier, identifiers), BuildClaim.expires_at > func.now()
    )
    under_way = set(connection.execute(held).scalars())
    requests = select(
        BuildRequest.session_identifier, BuildRequest.ended_at, BuildRequest.not_before, BuildRequest.problem
    ).where(among(BuildRequest.session_identifier, identifiers))
    found = {identifier: Build(True, False, None, None) for identifier in under_way}
    for row in connection.execute(requests):
        asked = row.ended_at is None
        found[row.session_identifier] = Build(
            row.session_identifier in under_way, asked, row.not_before if asked else None, row.problem
        )
    return found


# --- for the dispatch


def any_open(connection: Connection) -> bool:
    """Whether any build is asked for."""
    return bool(connection.execute(select(exists().where(BuildRequest.ended_at.is_(None)))).scalar_one())


def close_needless(connection: Connection) -> None:
    """End the requests for sessions that need no build any more, whoever has built them."""
    to_be_built = exists().where(
        SessionLog.session_identifier == BuildRequest.session_identifier,
        SessionLog.record_status == SessionStatus.TO_BE_BUILT,
    )
    connection.execute(
        update(BuildRequest)
        .where(BuildRequest.ended_at.is_(None), ~BuildRequest.rebuild, ~to_be_built, ~_claimed())
        .values(ended_at=func.now())
    )


def count_deaths(connection: Connection, patience: timedelta) -> dict[str, int]:
    """Note the builders that died: the sessions with which one began, and that none holds; how many have died there."""
    statement = (
        update(BuildRequest)
        .where(BuildRequest.ended_at.is_(None), BuildRequest.begun_at < func.now() - literal(patience), ~_claimed())
        .values(deaths=BuildRequest.deaths + 1, begun_at=None)
        .returning(BuildRequest.session_identifier, BuildRequest.deaths)
    )
    return {row.session_identifier: row.deaths for row in connection.execute(statement)}


def waiting(connection: Connection) -> int:
    """How many requests should have a message in the queue."""
    statement = select(func.count()).where(
        BuildRequest.ended_at.is_(None), BuildRequest.published_at.is_not(None), ~_claimed()
    )
    return connection.execute(statement).scalar_one()


def lock_unsent(connection: Connection, new: int, again: int, patience: timedelta) -> list[Unsent]:
    """At most `new` requests without a message, and `again` whose message went out longer than `patience` ago.

    They count as sent from now on, and nobody else gets them meanwhile.
    """
    never_sent = and_(
        BuildRequest.published_at.is_(None),
        or_(BuildRequest.not_before.is_(None), BuildRequest.not_before <= func.now()),
    )
    overdue = BuildRequest.published_at < func.now() - literal(patience)
    found = [
        Unsent(identifier, sent_before)
        for condition, most, sent_before in ((never_sent, new, False), (overdue, again, True))
        if most > 0
        for identifier in connection.execute(_unclaimed(condition).limit(most)).scalars()
    ]
    connection.execute(
        update(BuildRequest)
        .where(among(BuildRequest.session_identifier, [request.session_identifier for request in found]))
        .values(published_at=func.now())
    )
    return found


def unsent(connection: Connection, identifiers: Sequence[str]) -> None:
    """Note that these messages did not go out."""
    connection.execute(
        update(BuildRequest).where(among(BuildRequest.session_identifier, identifiers)).values(published_at=None)
    )


def _unclaimed(condition: ColumnElement[bool]) -> Select[Any]:
    return (
        select(BuildRequest.session_identifier)
        .where(BuildRequest.ended_at.is_(None), ~_claimed(), condition)
        .order_by(BuildRequest.published_at.nulls_first(), BuildRequest.asked_at, BuildRequest.session_identifier)
        .with_for_update(skip_locked=True)
    )


def _claimed() -> ColumnElement[bool]:
    return exists().where(
        and_(BuildClaim.session_identifier == BuildRequest.session_identifier, BuildClaim.expires_at > func.now())
    )
