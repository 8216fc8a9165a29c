"""How the destinations are, in words, from their rows: `destinations`, `build` and `enqueue` say it."""

from datetime import datetime

from sqlalchemy import Engine

from nexus_tasks.db import deliveries
from nexus_tasks.db import destinations as rows
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import DestinationRow
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.checkup import check_settings


def wellbeing(engine: Engine) -> dict[str, str]:
    """A few words for each destination that a record was ever sent to. Raises `DatabaseError`."""
    return {row.name: _in_words(row, now) for row, now in _found(engine)}


def unwell(deployment: Deployment) -> list[str]:
    """One sentence for each enabled destination that takes nothing now; what is due to it waits. Raises as above.

    And one for each that takes no part because a setting is missing while others are there.
    """
    sentences = [
        f"{destination.name} takes no part, records go out without it: {check_settings(destination)[1]}"
        for destination in deployment.registry.half_configured
    ]
    for destination in deployment.registry.enabled:
        valid, problem = check_settings(destination)
        if not valid:
            sentences.append(f"{destination.name} takes no records: {problem or 'it does not say why'}")
    enabled = {destination.name for destination in deployment.registry.enabled}
    sentences += [
        f"{row.name} takes no records, they wait for it: {_in_words(row, now)}"
        for row, now in _found(deployment.engine)
        if row.name in enabled and not row.breaker.closed
    ]
    return sentences


def _found(engine: Engine) -> list[tuple[DestinationRow, datetime]]:
    with transaction(engine) as connection:
        now = deliveries.clock(connection)
        return [(row, now) for row in rows.all_rows(connection)]


def _in_words(row: DestinationRow, now: datetime) -> str:
    if row.breaker.paused:
        return "paused by an operator"
    if row.breaker.half_open(now):
        return f"being tried again: {row.breaker.reason}"
    if row.breaker.open_until is not None:
        return f"paused until {row.breaker.open_until.astimezone():%H:%M:%S}: {row.breaker.reason}"
    return f"{row.in_flight} of {row.max_in_flight} under way"
