"""Admin operations: retry, abandon, pause, resume, backfill, and what to do after a restore.

Each changes rows and then dispatches what is due; none of them talks to a destination.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from nexus_tasks.db import deliveries, destinations, handover, records, rescuing
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import Breaker, DeliveryRow, RecordDeliveries
from nexus_tasks.delivery.plan import waits_for
from nexus_tasks.delivery.planner import dispatch
from nexus_tasks.delivery.rate_limit import max_in_flight
from nexus_tasks.delivery.reconcile import reconcile_within
from nexus_tasks.delivery.rescuer import rescue
from nexus_tasks.delivery.retry import MAY_EXIST
from nexus_tasks.delivery.snapshot import snapshot_of
from nexus_tasks.delivery.strategy import verdict
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportDestination
from nexus_tasks.plain_error import PlainError
from nexus_tasks.states import DeliveryState

RECORDS_AT_ONCE = 1000  # locked in one transaction; reconcile waits for it


class AdminError(PlainError):
    """What was asked for names something that is not there; the message says what."""


def retry(
    deployment: Deployment,
    identifiers: Sequence[str] | None,
    *,
    destination: str | None = None,
    only_failed: bool = False,
    recreate: bool = False,
) -> int:
    """Make deliveries due now that wait or have failed, of those sessions or of all; how many there were.

    So are those that were skipped because they require one that had failed, if that one is there or is retried as well.
    What a person gave up comes back only where its session is named. What is settled well stays alone, except with
    `recreate`: then the destination makes its object again, although an earlier one is known. Raises `BrokerError` when
    nothing can be sent at once; it is due all the same.
    """
    states = {DeliveryState.FAILED, DeliveryState.SKIPPED}
    states |= set() if only_failed else {DeliveryState.RETRYING}
    states |= {DeliveryState.SUCCEEDED} if recreate else set()
    with transaction(deployment.engine) as connection:
        found = deliveries.records_to_retry(connection, states, identifiers, destination)
    count = 0
    for batch in _batches(found):
        with transaction(deployment.engine) as connection:
            records.lock_all(connection, batch)
            chosen = [
                row
                for record in deliveries.of_records(connection, batch)
                for row in _to_be_retried(record, states, destination, named=identifiers is not None)
            ]
            retrying = [row.id for row in chosen if row.state is DeliveryState.RETRYING]
            others = [row.id for row in chosen if row.state is not DeliveryState.RETRYING]
            deliveries.make_due(connection, retrying, afresh=recreate, recreate=recreate)
            deliveries.make_due(connection, others, afresh=True, recreate=recreate)
            _store_waits(connection, batch)
        count += len(chosen)
    _send(deployment)
    return count


def abandon(deployment: Deployment, session_identifier: str, destination: str) -> None:
    """Give a delivery up: it becomes `failed` until it is retried, and the strategy's verdict stands.

    Raises `AdminError`.
    """
    with transaction(deployment.engine) as connection:
        row = _delivery(connection, session_identifier, destination)
        if row.state.final and (row.state is not DeliveryState.FAILED or row.abandoned):
            state = "abandoned" if row.abandoned else row.state
            raise AdminError(f"The delivery of session {session_identifier} to {destination} is {state} already.")
        may_exist = f" {MAY_EXIST}" if row.unresolved else ""
        deliveries.abandon(connection, row.id, f"Abandoned by an operator.{may_exist}")
        reconcile_within(connection, row.record_id)
    _send(deployment)


def pause(deployment: Deployment, destination: str) -> None:
    """Give the destination nothing until it is resumed. Raises `AdminError`."""
    with transaction(deployment.engine) as connection:
        breaker = _known_breaker(connection, deployment, destination)
        paused = replace(breaker, paused=True, reason="paused by an operator")
        destinations.set_breaker(connection, destination, paused)


def resume(deployment: Deployment, destination: str) -> None:
    """Have the destination get what is due, whatever paused it. Raises `AdminError`."""
    with transaction(deployment.engine) as connection:
        _known_breaker(connection, deployment, destination)
        destinations.set_breaker(connection, destination, Breaker())
    _send(deployment)


def backfill(deployment: Deployment, destination: str) -> int:
    """Send the records to a destination that they were never meant for, and return how many. Raises `AdminError`."""
    snapshot = [item for item in snapshot_of(deployment.registry.enabled) if item.name == destination]
    if not snapshot:
        raise AdminError(f"The destination {destination} is not enabled: see `nexus-tasks destinations`.")
    with transaction(deployment.engine) as connection:
        _known_breaker(connection, deployment, destination)
        found = deliveries.records_without(connection, destination)
    count = 0
    for batch in _batches(found):
        with transaction(deployment.engine) as connection:
            records.lock_all(connection, batch)
            count += handover.add_deliveries(connection, batch, snapshot)
            verdicts = [verdict(record) for record in deliveries.of_records(connection, batch)]
            deliveries.skip(connection, {key: reason for judged in verdicts for key, reason in judged.skip.items()})
            _store_waits(connection, batch)
    _send(deployment)
    return count


def after_restore(deployment: Deployment) -> int:
    """After PostgreSQL was restored from a backup: look up before creating. Returns how many deliveries are concerned.

    Runs that were open in the backup are lost, and messages from after it find no run. What the backup does not know of
    is over there already: every delivery that is not settled, and every session from before, is looked up first.
    """
    with transaction(deployment.engine) as connection:
        lost = rescuing.lose_all(connection)
        concerned = deliveries.restored(connection)
        for record_id in lost:
            reconcile_within(connection, record_id)
    _send(deployment)
    return concerned


def plugin_of(deployment: Deployment, destination: str) -> ExportDestination:
    """The destination of that name, enabled or not. Raises `AdminError`."""
    plugin = deployment.registry.get(destination)
    if plugin is None:
        known = ", ".join(item.name for item in deployment.registry.destinations)
        raise AdminError(f"There is no destination {destination}: there are {known}.")
    return plugin


def _batches(record_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(record_ids), RECORDS_AT_ONCE):
        yield record_ids[first : first + RECORDS_AT_ONCE]


def _to_be_retried(
    record: RecordDeliveries, states: Collection[DeliveryState], destination: str | None, *, named: bool
) -> list[DeliveryRow]:
    """Those that would be wanted if they were due now; the verdict may be that they are skipped, again or at last."""
    asked = {
        row.id
        for row in record.deliveries
        if row.state in states and destination in {None, row.destination} and (named or not row.abandoned)
    }
    due = tuple(replace(row, state=DeliveryState.PENDING) if row.id in asked else row for row in record.deliveries)
    needless = verdict(replace(record, deliveries=due)).skip
    return [row for row in record.deliveries if row.id in asked and row.id not in needless]


def _send(deployment: Deployment) -> None:
    """What the periodic dispatch does, at once: it may be beat that is away. Raises `BrokerError`."""
    rescue(deployment)
    dispatch(deployment)


def _store_waits(connection: Connection, batch: Sequence[int]) -> None:
    """Store what the deliveries of these records wait for, now that some are due that were not."""
    waits: dict[int, str] = {}
    for record in deliveries.of_records(connection, batch):
        waits |= waits_for(record)
    deliveries.set_waits(connection, waits)


def _delivery(connection: Connection, session_identifier: str, destination: str) -> DeliveryRow:
    """The delivery; its record is locked."""
    record = records.of_session(connection, session_identifier)
    if record is None:
        raise AdminError(f"Session {session_identifier} has no record: see `nexus-tasks status`.")
    records.lock_all(connection, [record.id])
    for row in deliveries.of_record(connection, record.id).deliveries:
        if row.destination == destination:
            return row
    raise AdminError(f"The record of session {session_identifier} is not meant for {destination}.")


def _known_breaker(connection: Connection, deployment: Deployment, destination: str) -> Breaker:
    """The destination's circuit breaker; its row is made now if its plugin is known and no record was sent to it."""
    if all(row.name != destination for row in destinations.all_rows(connection)):
        plugin = plugin_of(deployment, destination)
        destinations.ensure(connection, {destination: max_in_flight(plugin, deployment.settings)})
    return destinations.lock_breaker(connection, destination)
