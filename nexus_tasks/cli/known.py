"""Sessions that a command names: there has to be one of each identifier."""

from collections.abc import Sequence

from sqlalchemy import Connection

from nexus_tasks.cli.output import CommandError
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import SessionRow
from nexus_tasks.deployment import Deployment


def check_known(deployment: Deployment, identifiers: list[str] | None) -> list[str] | None:
    """The identifiers, None when none were given; raises `CommandError` for one that is not known."""
    if not identifiers:
        return None
    with transaction(deployment.engine) as connection:
        known_rows(connection, identifiers)
    return identifiers


def known_rows(connection: Connection, identifiers: Sequence[str]) -> list[SessionRow]:
    """The rows of these sessions; raises `CommandError` for one that is not known."""
    rows = sessions.sessions(connection, identifiers)
    known = {row.session_identifier for row in rows}
    for identifier in identifiers:
        if identifier not in known:
            raise CommandError(f"There is no session {identifier}: see `nexus-tasks sessions list`.")
    return rows
