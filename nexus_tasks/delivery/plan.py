"""Decides what to run now: pure, called by dispatch with rows, tested without a database.

A run takes a record's due deliveries whose destinations have room. A delivery waits for what it depends on, unless that
has failed a run already, is paused, or goes first in the same run. Scarce room goes first to deliveries whose
dependencies are settled.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.states import DeliveryState, RunKind, Strategy


@dataclass(frozen=True)
class PlannedRun:
    """Deliveries of one record, in stages: the deliveries of a stage run side by side after the stage before."""

    record_id: int
    stages: tuple[tuple[DeliveryRow, ...], ...]
    kind: RunKind = RunKind.NORMAL

    @property
    def deliveries(self) -> tuple[DeliveryRow, ...]:
        """All of them, stage after stage."""
        return tuple(delivery for stage in self.stages for delivery in stage)


def plan(
    records: Iterable[RecordDeliveries], room: Mapping[str, int], paused: Collection[str], now: datetime
) -> list[PlannedRun]:
    """The runs to start now.

    `records` are in no open run; `room` is how many more deliveries each destination may be given (a destination that
    is not named has none); `paused` destinations are given nothing.
    """
    wanted = [(record, _wanted(record, paused, now)) for record in records]
    left = dict(room)
    taken: dict[int, dict[str, DeliveryRow]] = {record.record_id: {} for record, _ in wanted}
    for only_unhindered in (True, False):
        for record, due in wanted:
            _take(record, due, taken[record.record_id], left, paused, only_unhindered=only_unhindered)
    return [
        PlannedRun(record.record_id, _stages(taken[record.record_id]))
        for record, _ in wanted
        if taken[record.record_id]
    ]


def single(record: RecordDeliveries, destination: str, kind: RunKind) -> PlannedRun:
    """A run of one delivery: the probe of a paused destination, or a delivery whose workers have died."""
    stage = tuple(delivery for delivery in record.deliveries if delivery.destination == destination)
    return PlannedRun(record.record_id, (stage,), kind)


def _wanted(record: RecordDeliveries, paused: Collection[str], now: datetime) -> list[DeliveryRow]:
    due = sorted(
        (row for row in record.deliveries if row.due(now) and row.destination not in paused and not row.suspected),
        key=lambda delivery: (-delivery.priority, delivery.destination),
    )
    if record.strategy is not Strategy.FIRST_SUCCESS:
        return due
    if any(row.has_succeeded for row in record.deliveries):  # one holds the record: it is kept up to date, that is all
        due = [row for row in due if row.has_succeeded]
    # one at a time: nothing new before it is known what a lost answer has left behind, then those that have not been
    # tried yet, so that a failure moves on to the next destination
    unresolved = [row for row in record.deliveries if row.unresolved and not row.state.settled]
    if unresolved:
        return [row for row in due if row in unresolved][:1]
    everything = {row.destination: row for row in record.deliveries}
    in_order = sorted(due, key=lambda row: row.state is not DeliveryState.PENDING)
    return [row for row in in_order if _may_go(row, everything, {}, paused)][:1]


def _take(
    record: RecordDeliveries,
    due: list[DeliveryRow],
    taken: dict[str, DeliveryRow],
    left: dict[str, int],
    paused: Collection[str],
    *,
    only_unhindered: bool,
) -> None:
    """Move what may go from `due` to `taken`, until nothing more may."""
    everything = {delivery.destination: delivery for delivery in record.deliveries}
    moved = True
    while moved:
        moved = False
        for delivery in due:
            name = delivery.destination
            if name in taken or left.get(name, 0) <= 0:
                continue
            if only_unhindered:
                may_go = _dependencies_settled(delivery, everything)
            else:
                may_go = _may_go(delivery, everything, taken, paused)
            if may_go:
                taken[name] = delivery
                left[name] -= 1
                moved = True


def _dependencies_settled(delivery: DeliveryRow, everything: Mapping[str, DeliveryRow]) -> bool:
    required = (everything.get(name) for name in delivery.requires)
    helpful = (everything.get(name) for name in delivery.depends_on)
    return all(other is not None and other.has_succeeded for other in required) and all(
        other is None or other.state.settled for other in helpful
    )


def _may_go(
    delivery: DeliveryRow,
    everything: Mapping[str, DeliveryRow],
    taken: Mapping[str, DeliveryRow],
    paused: Collection[str],
) -> bool:
    for name in delivery.requires:
        required = everything.get(name)
        if required is None or not (required.has_succeeded or name in taken):
            return False
    if delivery.unresolved:  # what it may have left over there is looked up, whatever the others do
        return True
    for name in delivery.depends_on:
        helpful = everything.get(name)
        if helpful is None or helpful.state.settled or name in taken or name in paused:
            continue
        if helpful.state is DeliveryState.PENDING and not helpful.suspected:
            return False  # it goes first; lack of room is no reason to go without it
    return True


def _stages(taken: Mapping[str, DeliveryRow]) -> tuple[tuple[DeliveryRow, ...], ...]:
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            delivery = taken[name]
            before = [depth(other) for other in {*delivery.depends_on, *delivery.requires} if other in taken]
            depths[name] = 1 + max(before, default=-1)
        return depths[name]

    for name in taken:
        depth(name)
    return tuple(
        tuple(delivery for name, delivery in taken.items() if depths[name] == level)
        for level in range(max(depths.values()) + 1)
    )
