"""One Redis client per channel, in the place of one per operation."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.connection import Connection as KombuConnection
from kombu.transport import redis as kombu_redis

from nexus_tasks.redis_transport import AmqpWithOneClient

Connection: Any = AmqpWithOneClient.Connection  # kombu ships no types


@pytest.fixture
def channel(broker_url: str) -> Iterator[Any]:
    with Connection(broker_url) as connection:
        yield connection.default_channel


def client_of(channel: Any) -> object:
    with channel.conn_or_acquire() as client:
        client.ping()
        return client


def test_a_channel_keeps_its_client(channel: Any) -> None:
    assert client_of(channel) is client_of(channel)


def test_a_client_that_is_given_is_taken(channel: Any) -> None:
    given = object()
    with channel.conn_or_acquire(given) as client:
        assert client is given


def test_a_channel_whose_connections_were_cut_has_a_new_client(channel: Any) -> None:
    before = client_of(channel)
    channel._disconnect_pools()
    assert client_of(channel) is not before


def test_a_forked_process_does_not_send_by_the_clients_connection(channel: Any) -> None:
    before = client_of(channel)
    pid = os.fork()
    if pid == 0:
        channel._after_fork()
        os._exit(client_of(channel) is before)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_address_stays_what_it_is(broker_url: str) -> None:
    assert Connection(broker_url).as_uri() == KombuConnection(broker_url).as_uri()  # type: ignore[no-untyped-call]


def test_another_broker_keeps_its_transport() -> None:
    assert Connection("memory://").transport_cls == "memory"
    assert not isinstance(Connection("memory://").transport, kombu_redis.Transport)
