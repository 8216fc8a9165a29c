"""The conveyor belt: what it says when it takes no messages, and how many wait in its queues."""

import logging
from collections.abc import Collection

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from nexus_tasks.plain_error import PlainError

BROKER_ERRORS = (OperationalError, RedisError, OSError, RuntimeError)

logger = logging.getLogger(__name__)


class BrokerError(PlainError):
    """The broker does not take messages. Nothing is lost: what is due stays in PostgreSQL until it is sent again."""

    def __init__(self, error: Exception, afterwards: str) -> None:
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        super().__init__(
            f"The broker takes no messages ({reason}): check NX_BROKER_URL and that it runs. "
            f"Nothing is lost, {afterwards}."
        )


def queue_lengths(app: Celery, queues: Collection[str]) -> dict[str, int]:
    """How many messages wait in each queue; taken for one when the broker does not answer, for nothing can be sent."""
    lengths = dict.fromkeys(queues, 1)
    if not queues:
        return lengths
    connection = app.connection_for_write()  # the one for consuming is patient with a silent broker
    broken = (*BROKER_ERRORS, *connection.connection_errors, *connection.channel_errors)
    try:
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
            for queue in queues:
                lengths[queue] = _length(connection, queue)
    except broken as error:
        logger.warning("The length of queue %s is not known: %s", ", ".join(sorted(queues)), error)
    return lengths


def _length(connection: Connection, queue: str) -> int:
    try:
        with connection.channel() as channel:  # type: ignore[no-untyped-call]
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except connection.channel_errors as error:
        if "NOT_FOUND" in str(error) or "no queue" in str(error).lower():
            return 0
        raise
