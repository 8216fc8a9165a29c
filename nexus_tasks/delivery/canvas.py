"""Draws a planned run as a Celery canvas: stages one after the other, finalize at the end.

With CDCS and the two notebooks it is `chain(export.cdcs, chord(group(export.elabftw, export.labarchives), finalize))`.
"""

from dataclasses import dataclass

from celery import Celery, Signature, chain, group

from nexus_tasks.queues import EXPORT

FINALIZE = "finalize"
COLLECT = "collect"
DISPATCH = "dispatch"
ARCHIVE = "archive"
PRUNE = "prune"
BY_BEAT = "by_beat"  # header of a message that beat has sent


@dataclass(frozen=True)
class OpenRun:
    """A run that is committed, with its attempts by stage: (destination, attempt id)."""

    run_id: int
    token: str  # of the run: proves that a message belongs to these rows
    session_identifier: str
    stages: tuple[tuple[tuple[str, int], ...], ...]


def canvas(app: Celery, run: OpenRun) -> Signature:
    """The canvas of a run. Arguments are ids and the session's identifier, never contents or secrets."""
    steps: list[Signature] = []
    for stage in run.stages:
        exports = [
            app.signature(
                EXPORT + destination,
                kwargs={"attempt_id": attempt_id, "run": run.token, "session": run.session_identifier},
            )
            for destination, attempt_id in stage
        ]
        if len(exports) == 1:
            steps.append(exports[0])
            continue
        if steps and isinstance(steps[-1], group):  # a chord needs a body between two groups
            steps.append(app.signature(COLLECT))
        steps.append(group(exports))
    steps.append(app.signature(FINALIZE, kwargs={"run_id": run.run_id, "session": run.session_identifier}))
    return chain(*steps)
