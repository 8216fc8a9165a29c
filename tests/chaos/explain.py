"""Says, record by record, what is wrong and what rows and services say of it, so that the cause can be found."""

from collections import defaultdict
from collections.abc import Sequence

from tests.chaos.audit_objects import Objects, cdcs_records
from tests.chaos.findings import Finding
from tests.chaos.records import Expected
from tests.chaos.rows import Rows


def explain(expected: Sequence[Expected], findings: Sequence[Finding], objects: Objects, rows: Rows) -> list[str]:
    """One paragraph for each record with findings, and one for what belongs to no record."""
    by_session: dict[str | None, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_session[finding.session].append(finding)
    known = {record.session: record for record in expected}
    paragraphs = []
    for session, found in by_session.items():
        lines = [session or "(no record)"]
        lines += [f"  {finding.kind}: {finding.destination or 'session'}: {finding.what}" for finding in found]
        if session in known:
            lines += [f"    {line}" for line in (*_rows(session, rows), *_objects(known[session], expected, objects))]
        paragraphs.append("\n".join(lines))
    return paragraphs


def _rows(session: str, rows: Rows) -> list[str]:
    lines = [f"rows: {rows.statuses.get(session, 'session not known')}"]
    lines += ["open run" for each in rows.open_runs if each == session]
    for delivery in rows.deliveries:
        if delivery.session != session:
            continue
        attempts = [
            f"{row.id} {row.state}" + (f" ({row.error_message[:90]})" if row.error_message else "")
            for row in rows.attempts
            if row.delivery_id == delivery.id
        ]
        log = [
            str(row.success) for row in rows.log if row.session == session and row.destination == delivery.destination
        ]
        lines.append(
            f"{delivery.destination}: {delivery.state}, remote {delivery.remote_record_id}; "
            f"attempts: {'; '.join(attempts) or 'none'}; log: {' '.join(log) or 'none'}"
        )
    return lines


def _objects(record: Expected, expected: Sequence[Expected], objects: Objects) -> list[str]:
    cdcs = [str(each["id"]) for each in cdcs_records(expected, objects.cdcs).get(record.session, [])]
    experiments = [
        f"{each['id']} (uploads {[upload['real_name'] for upload in each['uploads']]})"
        for each in objects.elabftw
        if each["title"].endswith(f" - {record.session}")
    ]
    pages = [f"{each['kind']} {each['id']}" for each in objects.labarchives if each.get("path") == record.page_path]
    held = {"cdcs": cdcs, "elabftw": experiments, "labarchives": pages}
    return [f"{name} holds {', '.join(found) or 'nothing'}" for name, found in held.items()]
