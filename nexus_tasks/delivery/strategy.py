"""Says what a record's deliveries amount to: pure, tested without a database."""

from dataclasses import dataclass, field

from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.states import DeliveryState, Strategy


@dataclass(frozen=True)
class Verdict:
    """Whether the strategy is satisfied, and which deliveries are not wanted any more (delivery id → reason)."""

    satisfied: bool
    skip: dict[int, str] = field(default_factory=dict)


def verdict(record: RecordDeliveries) -> Verdict:
    """Judge by rows only: what this process happens to have configured does not matter.

    A record without deliveries is never satisfied; a delivery that succeeded once has succeeded.
    """
    satisfied = _satisfied(record)
    skip: dict[int, str] = {}
    gone: set[str] = {delivery.destination for delivery in record.deliveries if _cannot_serve(delivery)}
    known = {delivery.destination for delivery in record.deliveries}
    unfinished = [delivery for delivery in record.deliveries if not delivery.state.final]
    if satisfied and record.strategy is Strategy.FIRST_SUCCESS:
        holder = next(delivery.destination for delivery in record.deliveries if delivery.has_succeeded)
        needless = [delivery for delivery in unfinished if not delivery.has_succeeded]  # the holder is kept up to date
        return Verdict(satisfied, {delivery.id: f"{holder} holds the record already" for delivery in needless})
    found_more = True
    while found_more:  # what requires a skipped one is skipped as well
        found_more = False
        for delivery in unfinished:
            missing = [name for name in delivery.requires if name in gone or name not in known]
            if missing and delivery.id not in skip:
                skip[delivery.id] = f"it requires {missing[0]}, which does not hold the record"
                gone.add(delivery.destination)
                found_more = True
    return Verdict(satisfied, skip)


def _satisfied(record: RecordDeliveries) -> bool:
    succeeded = [delivery.has_succeeded for delivery in record.deliveries]
    if record.strategy is Strategy.ALL:
        return bool(succeeded) and all(succeeded)
    return any(succeeded)


def _cannot_serve(delivery: DeliveryRow) -> bool:
    return not delivery.has_succeeded and delivery.state in {DeliveryState.FAILED, DeliveryState.SKIPPED}
