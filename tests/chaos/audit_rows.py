"""Judges the rows: deliveries, the end of every session, and the upload log against the attempts; pure."""

from collections import Counter
from collections.abc import Iterator, Sequence

from nexus_tasks.db.rows import QUARANTINE_AFTER
from nexus_tasks.delivery.rescuer import DEATHS_IN_QUARANTINE
from nexus_tasks.states import AttemptState, RunKind, SessionStatus
from tests.chaos.findings import Finding, Kind
from tests.chaos.records import Expected
from tests.chaos.rows import OPEN_ATTEMPTS, UNFINISHED, AttemptFacts, DeliveryFacts, LogFacts, Rows


def audit_deliveries(expected: Sequence[Expected], rows: Rows) -> Iterator[Finding]:
    """Every delivery has succeeded, or failed with a reason where it had to."""
    deliveries = {(row.session, row.destination): row for row in rows.deliveries}
    for record in expected:
        for name in sorted(record.destinations):
            row = deliveries.get((record.session, name))
            if row is None:
                yield Finding(Kind.LOST, record.session, name, "there is no delivery")
            elif name in record.doomed and (why_not := _not_failed_by_deaths(row, rows)):
                yield Finding(Kind.LOST, record.session, name, why_not)
            elif name not in record.doomed and row.state != "succeeded":
                yield Finding(Kind.LOST, record.session, name, f"is {row.state}: {row.error_message}")


def _not_failed_by_deaths(row: DeliveryFacts, rows: Rows) -> str | None:
    """What is wrong with a delivery that kills its worker: it is to fail by its deaths alone, and to say so."""
    died = [each for each in rows.attempts if each.delivery_id == row.id and each.state == AttemptState.EXPIRED]
    if row.state != "failed":
        return f"should have failed, is {row.state}"
    if "worker died" not in (row.error_message or ""):
        return f"failed without its deaths as the reason: {row.error_message}"
    if len(died) < QUARANTINE_AFTER + DEATHS_IN_QUARANTINE:
        return f"failed after {len(died)} deaths"
    if any(each.run_kind == RunKind.NORMAL for each in died[-DEATHS_IN_QUARANTINE:]):
        return "failed by deaths in a run with others"
    return None


def audit_sessions(expected: Sequence[Expected], rows: Rows) -> Iterator[Finding]:
    """Every session has come to its end, and nothing of it goes on."""
    for record in expected:
        wanted = SessionStatus.BUILT_NOT_EXPORTED if record.doomed else SessionStatus.COMPLETED
        status = rows.statuses.get(record.session, "not known")
        going_on = [f"is {status}"] if status != wanted else []
        going_on += ["a run is open" for session in rows.open_runs if session == record.session]
        going_on += [
            f"attempt {row.id} at {row.destination} is {row.state}"
            for row in rows.attempts
            if row.session == record.session and row.state in OPEN_ATTEMPTS
        ]
        going_on += [
            f"{row.destination} is {row.state}"
            for row in rows.deliveries
            if row.session == record.session and row.state in UNFINISHED
        ]
        if going_on:
            yield Finding(Kind.STUCK, record.session, None, ", ".join(going_on))


def audit_log(rows: Rows) -> Iterator[Finding]:
    """One row for each attempt that was answered, or whose death failed its delivery, and no row else.

    Of equal successes (the same session, destination and fingerprint of the inputs) only one may be in the log.
    """
    attempts = {row.id: row for row in rows.attempts}
    due = {row.id for row in _to_be_logged(rows)}
    logged = Counter(row.attempt_id for row in rows.log)
    for attempt_id in sorted(due - logged.keys()):
        yield _finding(attempts[attempt_id], f"attempt {attempt_id} is {attempts[attempt_id].state} without a row")
    seen: set[int] = set()
    successes: Counter[tuple[str, str, str | None]] = Counter()
    for row in rows.log:
        attempt = attempts.get(row.attempt_id or 0)
        if attempt is None:
            yield _finding(row, f"row {row.id} belongs to no attempt")
            continue
        if attempt.id in seen:
            yield _finding(row, f"row {row.id} is a second one for attempt {attempt.id}")
            continue
        seen.add(attempt.id)
        if attempt.id not in due:
            yield _finding(row, f"row {row.id} is about attempt {attempt.id}, which is {attempt.state}")
        elif row.success != (attempt.state == AttemptState.SUCCEEDED):
            yield _finding(row, f"row {row.id} says success = {row.success}, attempt {attempt.id} is {attempt.state}")
        elif row.success:
            key = (row.session, row.destination, attempt.input_fingerprint)
            successes[key] += 1
            if successes[key] > 1:
                yield _finding(row, f"row {row.id} is success number {successes[key]} with the same inputs")


def _to_be_logged(rows: Rows) -> Iterator[AttemptFacts]:
    failed = {row.id for row in rows.deliveries if row.state == "failed"}
    last = {row.delivery_id: row.id for row in sorted(rows.attempts, key=lambda row: row.id)}
    for row in rows.attempts:
        fatal = row.state == AttemptState.EXPIRED and row.delivery_id in failed and last[row.delivery_id] == row.id
        if fatal or AttemptState(row.state).logged:
            yield row


def _finding(row: AttemptFacts | LogFacts, what: str) -> Finding:
    return Finding(Kind.EXTRA_LOG_ROWS, row.session, row.destination, what)
