"""Decides what goes out now, and what each delivery waits for: pure, tested without a database.

`waits_for` is evaluated when a record's rows change, and stored with each delivery, so that the planner finds what may
go by an index. `plan` then makes runs of the records that it found: a run takes a record's due deliveries whose
destinations have capacity. Scarce capacity goes first to deliveries that wait for nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from nexus_tasks.db.rows import QUARANTINE, DeliveryRow, RecordDeliveries
from nexus_tasks.states import DeliveryState, RunKind, Strategy

# What a delivery waits for is text: names of destinations joined by commas, each of which goes first unless its circuit
# is open; or QUARANTINE, or one of these with the destination that it is about, which no open circuit lifts. Names of
# destinations hold no colon.
REQUIRED = "required:"  # a destination that it requires does not hold the record
UNRESOLVED = "unresolved:"  # first_success: it is not known yet whether another destination holds the record


@dataclass(frozen=True)
class PlannedRun:
    """Deliveries of one record, in stages: the deliveries of a stage run side by side after the stage before."""

    record_id: int
    session_identifier: str
    stages: tuple[tuple[DeliveryRow, ...], ...]
    kind: RunKind = RunKind.NORMAL

    @property
    def deliveries(self) -> tuple[DeliveryRow, ...]:
        """All of them, stage after stage."""
        return tuple(delivery for stage in self.stages for delivery in stage)


def waits_for(record: RecordDeliveries) -> dict[int, str]:
    """Delivery id → what it waits for ("" for nothing), of every delivery of the record that is not final."""
    return {row.id: _waits_for(row, record) for row in record.deliveries if not row.state.final}


def plan(
    records: Iterable[RecordDeliveries], capacity: Mapping[str, int], not_awaited: Collection[str], now: datetime
) -> list[PlannedRun]:
    """The runs to open now.

    `records` are in no open run; `capacity` is how many more deliveries each destination may be sent (one that is not
    named has none); `not_awaited` are the destinations whose circuit is open, which are sent nothing.
    """
    wanted = [(record, _wanted(record, not_awaited, now)) for record in records]
    left = dict(capacity)
    taken: dict[int, dict[str, DeliveryRow]] = {record.record_id: {} for record, _ in wanted}
    for only_free in (True, False):
        for record, due in wanted:
            _take(record, due, taken[record.record_id], left, not_awaited, only_free=only_free)
    return [
        PlannedRun(record.record_id, record.session_identifier, _stages(taken[record.record_id]))
        for record, _ in wanted
        if taken[record.record_id]
    ]


def single(record: RecordDeliveries, destination: str, kind: RunKind) -> PlannedRun:
    """A run of one delivery: the probe of a half-open destination, or a quarantined delivery."""
    stage = tuple(delivery for delivery in record.deliveries if delivery.destination == destination)
    return PlannedRun(record.record_id, record.session_identifier, (stage,), kind)


# --- what a delivery waits for


def _waits_for(row: DeliveryRow, record: RecordDeliveries) -> str:
    blocked = _blocked(row, record)
    if blocked:
        return blocked
    if row.quarantined:
        return QUARANTINE
    return ",".join(sorted({*_dependencies(row, record), *_before_it(row, record)}))


def _blocked(row: DeliveryRow, record: RecordDeliveries) -> str | None:
    """What no open circuit lifts."""
    everything = {other.destination: other for other in record.deliveries}
    for name in row.requires:
        required = everything.get(name)
        if required is None or not required.has_succeeded:
            return REQUIRED + name
    if record.strategy is Strategy.FIRST_SUCCESS and not row.unresolved:
        for other in record.deliveries:
            if other.unresolved and not other.state.final:
                return UNRESOLVED + other.destination
    return None


def _dependencies(row: DeliveryRow, record: RecordDeliveries) -> set[str]:
    """What it depends on and is still to be tried; one that has failed a run, or kills its workers, is not awaited."""
    if row.unresolved:  # what it may have left behind is looked up, whatever the others do
        return set()
    return {other.destination for other in record.deliveries if other.destination in row.depends_on and _awaited(other)}


def _before_it(row: DeliveryRow, record: RecordDeliveries) -> set[str]:
    """Under first_success, what is tried before it: of higher rank, and everything untried once it has failed itself.

    A destination that itself waits for another one is not awaited, so that nobody waits in a circle.
    """
    if record.strategy is not Strategy.FIRST_SUCCESS or row.unresolved:
        return set()
    return {
        other.destination
        for other in record.deliveries
        if other.id != row.id
        and _awaited(other)
        and (row.state is not DeliveryState.PENDING or _rank(other) < _rank(row))
        and _blocked(other, record) is None
        and not _dependencies(other, record)
    }


def _awaited(row: DeliveryRow) -> bool:
    return row.state is DeliveryState.PENDING and not row.quarantined


def _rank(row: DeliveryRow) -> tuple[int, str]:
    return -row.priority, row.destination


# --- what goes into a run


def _wanted(record: RecordDeliveries, not_awaited: Collection[str], now: datetime) -> list[DeliveryRow]:
    """What is due, in the order in which it is taken."""
    due = [row for row in record.deliveries if row.due(now) and row.destination not in not_awaited]
    if record.strategy is Strategy.FIRST_SUCCESS:  # an untried one first, so that a failure moves on to the next
        return sorted(due, key=lambda row: (row.state is not DeliveryState.PENDING, *_rank(row)))
    return sorted(due, key=_rank)


def _take(
    record: RecordDeliveries,
    due: list[DeliveryRow],
    taken: dict[str, DeliveryRow],
    left: dict[str, int],
    not_awaited: Collection[str],
    *,
    only_free: bool,
) -> None:
    """Move what may go from `due` to `taken`, until nothing more may; with `only_free`, what waits for nothing."""
    moved = True
    while moved:
        moved = False
        for delivery in due:
            name = delivery.destination
            if record.strategy is Strategy.FIRST_SUCCESS and taken:  # one at a time
                return
            if name in taken or left.get(name, 0) <= 0:
                continue
            if delivery.waits_for == "" or (not only_free and _may_go(delivery, record, taken, not_awaited)):
                taken[name] = delivery
                left[name] -= 1
                moved = True


def _may_go(
    delivery: DeliveryRow, record: RecordDeliveries, taken: Mapping[str, DeliveryRow], not_awaited: Collection[str]
) -> bool:
    """Whether all that it waits for goes first in the same run, or is not awaited."""
    awaited = set(delivery.waits_for.split(","))
    if delivery.waits_for.startswith(REQUIRED):
        if delivery.quarantined:
            return False
        holders = {row.destination for row in record.deliveries if row.has_succeeded}
        if not all(name in taken for name in delivery.requires if name not in holders):
            return False
        awaited = _dependencies(delivery, record)
    return all(name in taken or name in not_awaited for name in awaited)


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
