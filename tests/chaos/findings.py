"""What an audit can find wrong, and how it is counted: the columns of the table."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The five counts that must be 0."""

    LOST = "lost"  # record × destination without its object, its success or its link to CDCS
    DOUBLED = "doubled"  # objects too many
    WRONG_ATTACHMENTS = "wrong_attachments"  # XML missing, empty, different or superfluous
    EXTRA_LOG_ROWS = "extra_log_rows"  # rows of upload_log without their attempt, or the other way round
    STUCK = "stuck"  # sessions that did not come to their end


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `session` is None for what belongs to no record."""

    kind: Kind
    session: str | None
    destination: str | None
    what: str


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """The five counts: pairs of record and destination are lost, sessions are stuck, everything else is counted."""
    found = list(findings)
    counts = {kind.value: sum(finding.kind is kind for finding in found) for kind in Kind}
    for kind in (Kind.LOST, Kind.STUCK):
        counts[kind] = len({(each.session, each.destination) for each in found if each.kind is kind})
    return counts
