"""The audit at the end of a scenario: what should be, against rows and objects; pure."""

from collections.abc import Sequence

from tests.chaos.audit_objects import Objects, audit_objects
from tests.chaos.audit_rows import audit_deliveries, audit_log, audit_sessions
from tests.chaos.findings import Finding
from tests.chaos.records import Expected
from tests.chaos.rows import Rows


def audit(expected: Sequence[Expected], objects: Objects, rows: Rows) -> list[Finding]:
    """Everything that is wrong."""
    adopted = {(row.session, row.destination): row.remote_record_id for row in rows.deliveries}
    return [
        *audit_deliveries(expected, rows),
        *audit_sessions(expected, rows),
        *audit_log(rows),
        *audit_objects(expected, objects, adopted),
    ]
