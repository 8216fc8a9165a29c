"""What operators ask for: retry, abandon, pause, resume, backfill, and what to do after a restore.

Each changes rows and then sends what is due; none of them talks to a destination.
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from nexus_tasks.db import deliveries, destinations, records, runs
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import DeliveryRow, Health
from nexus_tasks.delivery.digest import digest
from nexus_tasks.delivery.dispatch import dispatch
from nexus_tasks.delivery.freeze import freeze
from nexus_tasks.delivery.retry import MAY_EXIST
from nexus_tasks.delivery.settle import settle
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.registry import window_of
from nexus_tasks.states import DeliveryState


class OperateError(Exception):
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

    What is settled well stays alone, except with `recreate`: then the destination makes its object again, although an
    earlier one is known. Raises `BrokerError` when nothing can be sent at once; it is due all the same.
    """
    with transaction(deployment.engine) as connection:
        found = [record.id for record in records.of_sessions(connection, identifiers)]
        chosen = [
            row
            for record in deliveries.of_records(connection, found)
            for row in record.deliveries
            if destination in {None, row.destination}
            and _to_be_retried(row, only_failed=only_failed, recreate=recreate)
        ]
        for row in chosen:
            afresh = recreate or row.state is DeliveryState.FAILED
            deliveries.make_due(connection, row.id, afresh=afresh, recreate=recreate)
    dispatch(deployment.app, deployment.engine, deployment.settings)
    return len(chosen)


def abandon(deployment: Deployment, session_identifier: str, destination: str) -> None:
    """Give a delivery up: it becomes `failed`, and the strategy's verdict stands. Raises `OperateError`."""
    with transaction(deployment.engine) as connection:
        row = _delivery(connection, session_identifier, destination)
        if row.state.settled:
            raise OperateError(f"The delivery of session {session_identifier} to {destination} is {row.state} already.")
        may_exist = f" {MAY_EXIST}" if row.unresolved else ""
        inputs = digest(deliveries.of_record(connection, row.record_id), row)
        deliveries.give_up(connection, row.id, f"Abandoned by an operator.{may_exist}", inputs)
    settle(deployment.engine, row.record_id)
    dispatch(deployment.app, deployment.engine, deployment.settings)


def pause(deployment: Deployment, destination: str) -> None:
    """Give the destination nothing until it is resumed. Raises `OperateError`."""
    with transaction(deployment.engine) as connection:
        health = _known_health(connection, deployment, destination)
        held = replace(health, held=True, reason="paused by an operator")
        destinations.set_health(connection, destination, held)


def resume(deployment: Deployment, destination: str) -> None:
    """Have the destination get what is due, whatever paused it. Raises `OperateError`."""
    with transaction(deployment.engine) as connection:
        _known_health(connection, deployment, destination)
        destinations.set_health(connection, destination, Health())
    dispatch(deployment.app, deployment.engine, deployment.settings)


def backfill(deployment: Deployment, destination: str) -> int:
    """Send the records to a destination that they were never meant for, and return how many. Raises `OperateError`."""
    frozen = next((item for item in freeze(deployment.registry.enabled) if item.name == destination), None)
    if frozen is None:
        raise OperateError(f"The destination {destination} is not enabled: see `nexus-tasks destinations`.")
    with transaction(deployment.engine) as connection:
        _known_health(connection, deployment, destination)
        found = deliveries.records_without(connection, destination)
        for record_id in found:
            deliveries.add(connection, record_id, [frozen])
    for record_id in found:
        settle(deployment.engine, record_id)
    dispatch(deployment.app, deployment.engine, deployment.settings)
    return len(found)


def after_restore(deployment: Deployment) -> int:
    """After PostgreSQL was restored from a backup: look up before creating. Returns how many deliveries are concerned.

    Runs that were open in the backup are lost, and messages from after it find no run. What the backup does not know of
    is over there already: every delivery that is not settled, and every session from before, is looked up first.
    """
    with transaction(deployment.engine) as connection:
        lost = runs.forget_all_open(connection)
        concerned = deliveries.restored(connection)
    for record_id in lost:
        settle(deployment.engine, record_id)
    dispatch(deployment.app, deployment.engine, deployment.settings)
    return concerned


def _to_be_retried(row: DeliveryRow, *, only_failed: bool, recreate: bool) -> bool:
    if row.state is DeliveryState.FAILED:
        return True
    if only_failed:
        return False
    return row.state is DeliveryState.WAITING or (recreate and row.state is DeliveryState.SUCCEEDED)


def _delivery(connection: Connection, session_identifier: str, destination: str) -> DeliveryRow:
    record = records.of_session(connection, session_identifier)
    if record is None:
        raise OperateError(f"Session {session_identifier} has no record: see `nexus-tasks status`.")
    for row in deliveries.of_record(connection, record.id).deliveries:
        if row.destination == destination:
            return row
    raise OperateError(f"The record of session {session_identifier} is not meant for {destination}.")


def _known_health(connection: Connection, deployment: Deployment, destination: str) -> Health:
    """The destination's row, made now if its plugin is known and no record was sent to it yet."""
    if destinations.get(connection, destination) is None:
        plugin = deployment.registry.get(destination)
        if plugin is None:
            known = ", ".join(item.name for item in deployment.registry.destinations)
            raise OperateError(f"There is no destination {destination}: there are {known}.")
        destinations.ensure(connection, {destination: window_of(plugin, deployment.settings.NX_WINDOWS)})
    return destinations.lock_health(connection, destination)
