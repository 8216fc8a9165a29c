"""Has workers build: `build --enqueue` asks here, and the periodic dispatch of builds publishes what was lost.

What is asked for stands in `build_request`, a message only wakes a worker: it may be lost, or come twice. A request is
published again when no builder holds its session and its message cannot be waiting any more, because the queue holds
fewer messages than there are requests that wait for one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection

from nexus_tasks.broker import BrokerError, queue_lengths
from nexus_tasks.db import builds, records, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.deployment import Deployment
from nexus_tasks.queues import BUILDS_QUEUE
from nexus_tasks.states import SessionStatus

BUILD = "records.build"
MOST_MESSAGES = 1000  # in the queue at once; the backlog stays in PostgreSQL
MOST_DEATHS = 3  # of builders in one session, after which it is not built again by itself

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AskedFor:
    """Sessions that workers will build. `broker_problem` is set when their messages could not go out yet."""

    identifiers: tuple[str, ...]
    broker_problem: str | None = None


def enqueue_builds(deployment: Deployment, identifiers: Sequence[str] | None, *, rebuild: bool = False) -> AskedFor:
    """Ask for a build of every session that is `TO_BE_BUILT`, or of those of `identifiers` that are.

    With `rebuild`, of those of `identifiers` that were built before as well. Asking again changes nothing. When this
    has returned the sessions will be built, whatever dies. Raises `DatabaseError`.
    """
    with transaction(deployment.engine) as connection:
        asked = builds.ask(connection, identifiers, rebuild=rebuild)
    try:
        publish_builds(deployment)
    except BrokerError as error:
        logger.warning("%s", error)
        return AskedFor(tuple(asked), str(error))
    return AskedFor(tuple(asked))


def publish_builds(deployment: Deployment) -> int:
    """Send the messages of new requests, and again those that were lost; how many went out.

    Gives up the sessions in which builders keep dying. Raises `BrokerError`, and then what did not go out is due again.
    """
    patience = timedelta(seconds=deployment.settings.NX_RUN_PATIENCE)
    with transaction(deployment.engine) as connection:
        if not builds.any_open(connection):
            return 0
        builds.close_needless(connection)
        for identifier, deaths in builds.count_deaths(connection, patience).items():
            logger.warning("The builder of session %s has died", identifier)
            if deaths >= MOST_DEATHS:
                _give_up(connection, identifier, deaths)
        waiting = builds.waiting(connection)
    queued = queue_lengths(deployment.app, [BUILDS_QUEUE])[BUILDS_QUEUE]
    with transaction(deployment.engine) as connection:
        unsent = builds.lock_unsent(connection, MOST_MESSAGES - queued, waiting - queued, patience)
    for position, request in enumerate(unsent):
        if request.again:
            logger.warning("The message to build session %s is lost, it is sent again", request.session_identifier)
        try:
            deployment.app.signature(BUILD, kwargs={"session": request.session_identifier}).apply_async()
        except Exception as error:  # a client whose broker dies under it raises nearly anything
            with transaction(deployment.engine) as connection:
                builds.unsent(connection, [not_sent.session_identifier for not_sent in unsent[position:]])
            raise BrokerError(error, "the sessions are built when it is back") from error
    return len(unsent)


def _give_up(connection: Connection, identifier: str, deaths: int) -> None:
    problem = (
        f"the builder died {deaths} times while it built this session: look at the logs of the workers, "
        "then build it here with `nexus-tasks build --rebuild`"
    )
    if not records.stands(connection, identifier):
        sessions.set_status(connection, identifier, SessionStatus.ERROR)
    builds.end(connection, identifier, builds.clock(connection), problem)
    logger.warning("Session %s is given up: %s", identifier, problem)
