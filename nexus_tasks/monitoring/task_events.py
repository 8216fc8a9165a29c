"""Has each worker send its task events, which Flower shows, in batches.

Celery sends them as soon as its event loop comes round, which is one message to the broker for every two or three
events. Here they leave twice a second, or when 24 have come together.
"""

from typing import Any

from celery import bootsteps

INTERVAL_S = 0.5  # how much later Flower sees what happens


class BatchedTaskEvents(bootsteps.StartStopStep):  # type: ignore[misc]
    """Takes over from Celery when the events of a worker are sent, while it is connected to the broker."""

    requires = ("celery.worker.consumer.events:Events", "celery.worker.consumer.tasks:Tasks")

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """The consumer has a new connection, and a new dispatcher with it."""
        dispatcher = consumer.event_dispatcher
        if dispatcher.on_send_buffered is None:  # it does not buffer: there is no event loop
            return
        dispatcher.on_send_buffered = None
        self._timer = consumer.timer.call_repeatedly(INTERVAL_S, dispatcher.flush)

    def stop(self, consumer: Any) -> None:
        """The consumer stops, or its connection is cut: what happens from here on is sent at once."""
        if self._timer is None:
            return
        consumer.timer.cancel(self._timer)
        self._timer = None
        consumer.event_dispatcher.on_send_buffered = consumer.on_send_event_buffered
        consumer.on_send_event_buffered()

    shutdown = stop
