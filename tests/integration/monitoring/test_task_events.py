"""Batches of task events, by the step that Celery's consumer runs: a real dispatcher and timer, fired by hand."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.asynchronous.timer import Timer

from nexus_tasks.celery import create_app
from nexus_tasks.config import load_settings
from nexus_tasks.exporters.registry import discover
from nexus_tasks.monitoring.task_events import BatchedTaskEvents


class Consumer:
    """As much of a consumer as the step uses."""

    def __init__(self, app: Celery) -> None:
        self.timer = Timer()  # type: ignore[no-untyped-call]  # kombu ships no types
        self.sent_at_once = 0
        self.event_dispatcher = app.events.Dispatcher(
            app.connection_for_write(), buffer_group=["task"], on_send_buffered=self.on_send_event_buffered
        )

    def on_send_event_buffered(self) -> None:
        self.sent_at_once += 1
        self.event_dispatcher.flush()

    def happen(self, number: int) -> None:
        for _ in range(number):
            self.event_dispatcher.send("task-received", uuid="a-task")

    def turn(self) -> None:
        """What the event loop does when the interval is over."""
        for entry in list(self.timer.queue):
            entry.entry()


@pytest.fixture
def consumer(broker_url: str) -> Iterator[Consumer]:
    made = Consumer(create_app(load_settings(NX_BROKER_URL=broker_url), discover([])))
    yield made
    made.event_dispatcher.connection.close()


@pytest.fixture
def step(consumer: Consumer) -> BatchedTaskEvents:
    made = BatchedTaskEvents(consumer)
    made.start(consumer)
    return made


@pytest.fixture
def listener(broker_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(broker_url) as client, client.pubsub(ignore_subscribe_messages=True) as subscribed:
        subscribed.psubscribe("*celeryev*")
        subscribed.get_message(timeout=10)  # the answer to the subscription
        yield subscribed


def batches(listener: Any) -> int:
    return len(list(iter(lambda: listener.get_message(timeout=0.2), None)))


def test_events_wait_for_each_other_and_leave_in_one_message(
    consumer: Consumer, step: BatchedTaskEvents, listener: Any
) -> None:
    consumer.happen(10)
    assert batches(listener) == 0
    consumer.turn()
    assert batches(listener) == 1
    consumer.turn()
    assert batches(listener) == 0, "there was nothing to send"


def test_a_full_buffer_does_not_wait(consumer: Consumer, step: BatchedTaskEvents, listener: Any) -> None:
    consumer.happen(consumer.event_dispatcher.buffer_limit)
    assert batches(listener) == 1


def test_a_consumer_that_stops_sends_what_waits_and_then_everything_at_once(
    consumer: Consumer, step: BatchedTaskEvents, listener: Any
) -> None:
    consumer.happen(3)
    step.stop(consumer)
    assert batches(listener) == 1
    assert not [entry for entry in consumer.timer.queue if not entry.entry.canceled]
    consumer.happen(2)
    assert batches(listener) == 2


def test_a_dispatcher_that_does_not_buffer_is_left_alone(consumer: Consumer, listener: Any) -> None:
    consumer.event_dispatcher.on_send_buffered = None
    consumer.event_dispatcher.buffer_group = frozenset()
    step = BatchedTaskEvents(consumer)
    step.start(consumer)
    consumer.happen(2)
    step.stop(consumer)
    assert batches(listener) == 2
