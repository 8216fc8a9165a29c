"""kombu's Redis transport with one client per channel.

kombu makes a client object for every message that it publishes, fetches or acknowledges. The object is costly to make
(it copies a table of some hundred response callbacks) and cheap to keep: it is safe to use from several threads, and
takes a connection from the channel's pool for each command, as a new one would.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.transport import redis


class _Channel(redis.Channel):
    _kept: Any = None

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The client for one operation: `client` if there is one, otherwise the channel's own."""
        if client is None:
            client = self._kept
            if client is None or client.connection_pool is not self.pool:  # a fork or a disconnect has replaced it
                client = self._kept = self._create_client()  # type: ignore[no-untyped-call]
        yield client


class _Transport(redis.Transport):
    Channel = _Channel


class _Connection(Connection):
    def get_transport_cls(self) -> Any:
        """The transport that the address asks for, ours in the place of kombu's for Redis."""
        found = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return _Transport if found is redis.Transport else found


class AmqpWithOneClient(AMQP):  # type: ignore[misc]
    """What a Celery app connects to its broker with."""

    Connection = _Connection
