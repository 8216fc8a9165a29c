"""Queries about the workers that run, and about what waits for them: presence writes, attention reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.models import BuildRequest, Delivery, Run, SignOfLife, Worker
from nexus_tasks.states import UNFINISHED, RunState

SILENT_AFTER = timedelta(seconds=100)  # three missed signs of life: it does not run, or takes nothing
FORGOTTEN_AFTER = timedelta(minutes=10)
BEAT = "beat"


@dataclass(frozen=True)
class WorkerRow:
    """A worker that runs. `stores`: setting → id of the folder it sees there, "" when it sees none."""

    name: str
    queues: tuple[str, ...]
    version: str
    clock_offset_s: float
    stores: Mapping[str, str]


@dataclass(frozen=True)
class Waiting:
    """What waits for workers: deliveries by destination, builds, and whether anything is to be settled or sent."""

    deliveries: Mapping[str, int]
    builds: int
    runs: int

    @property
    def anything(self) -> bool:
        """Whether there is anything to do at all."""
        return bool(self.deliveries or self.builds or self.runs)


def clock_seconds(connection: Connection) -> float:
    """PostgreSQL's clock at this very moment, in seconds since the epoch."""
    return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())


def present(
    connection: Connection,
    name: str,
    process: UUID,
    *,
    queues: Sequence[str],
    version: str,
    clock_offset_s: float,
    stores: Mapping[str, str],
) -> None:
    """Note that the worker runs, and forget those that have been silent for long."""
    facts: dict[str, Any] = {
        "process": process,
        "queues": list(queues),
        "version": version,
        "clock_offset_s": clock_offset_s,
        "stores": dict(stores),
        "seen_at": func.clock_timestamp(),
    }
    connection.execute(
        insert(Worker).values(name=name, **facts).on_conflict_do_update(index_elements=[Worker.name], set_=facts)
    )
    connection.execute(delete(Worker).where(~_seen_within(FORGOTTEN_AFTER)))


def absent(connection: Connection, name: str, process: UUID) -> None:
    """Take away what the worker said of itself: it takes nothing any more."""
    connection.execute(delete(Worker).where(Worker.name == name, Worker.process == process))


def running(connection: Connection) -> list[WorkerRow]:
    """The workers that were heard of a short while ago, by name."""
    statement = select(Worker.name, Worker.queues, Worker.version, Worker.clock_offset_s, Worker.stores)
    found = connection.execute(statement.where(_seen_within(SILENT_AFTER)).order_by(Worker.name))
    return [WorkerRow(row[0], tuple(row[1]), row[2], row[3], row[4]) for row in found]


def heard_of_beat(connection: Connection) -> None:
    """Note that a dispatch which beat asked for was made."""
    now = {"seen_at": func.clock_timestamp()}
    connection.execute(
        insert(SignOfLife).values(name=BEAT, **now).on_conflict_do_update(index_elements=[SignOfLife.name], set_=now)
    )


def silence_of_beat(connection: Connection) -> float | None:
    """The seconds since beat was last heard of; None when it never was."""
    silence = select(func.extract("epoch", func.clock_timestamp() - SignOfLife.seen_at))
    seconds = connection.execute(silence.where(SignOfLife.name == BEAT)).scalar_one_or_none()
    return None if seconds is None else float(seconds)


def waiting(connection: Connection) -> Waiting:
    """What there is to do: unsettled deliveries, builds that were asked for, open runs."""
    by_destination = (
        select(Delivery.destination, func.count())
        .where(Delivery.state.in_(UNFINISHED))
        .group_by(Delivery.destination)
        .order_by(Delivery.destination)
    )
    builds = select(func.count()).select_from(BuildRequest).where(BuildRequest.ended_at.is_(None))
    runs = select(func.count()).select_from(Run).where(Run.state == RunState.OPEN)
    return Waiting(
        {row[0]: row[1] for row in connection.execute(by_destination)},
        connection.execute(builds).scalar_one(),
        connection.execute(runs).scalar_one(),
    )


def _seen_within(span: timedelta) -> ColumnElement[bool]:
    recently: ColumnElement[bool] = Worker.seen_at > func.clock_timestamp() - literal(span)
    return recently
