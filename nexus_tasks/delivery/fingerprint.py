"""Fingerprints the inputs of a delivery: pure. When they differ from those it was sent with, it is due again."""

import hashlib
import json

from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.states import DeliveryState


def input_fingerprint(record: RecordDeliveries, delivery: DeliveryRow) -> str:
    """The SHA-256 over the record's, and identifier and link of everything it depends on, absence included."""
    needed = {*delivery.depends_on, *delivery.requires}
    inputs = {
        other.destination: [other.remote_record_id, other.remote_record_url] if other.has_succeeded else None
        for other in record.deliveries
        if other.destination in needed
    }
    return hashlib.sha256(json.dumps([record.sha256, inputs], sort_keys=True).encode()).hexdigest()


def outdated(record: RecordDeliveries) -> list[DeliveryRow]:
    """The final deliveries whose inputs have changed since: a rebuilt record, a link that came late.

    One that has succeeded is brought up to date only if its plugin says that it `updates`; a skipped one never.
    """
    return [
        delivery
        for delivery in record.deliveries
        if delivery.state in {DeliveryState.SUCCEEDED, DeliveryState.FAILED}
        and delivery.input_fingerprint is not None
        and delivery.input_fingerprint != input_fingerprint(record, delivery)
        and (delivery.updates or not delivery.has_succeeded)
    ]
