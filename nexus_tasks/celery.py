"""The Celery application: queues, routes, retry and recovery settings, the beat schedule. An app factory.

`celery -A nexus_tasks worker` finds the app of this process as `nexus_tasks.app`. The settings below that are not
Celery's defaults were chosen after killing workers and brokers under load; each says why. What a setting costs was
measured with an empty canvas of a record with three destinations, beside a worker without it. Without measurable effect
are `worker_disable_rate_limits`, `priority_steps`, `result_backend_always_retry`, gossip and mingle of one worker.
"""

import gc
import logging
from functools import lru_cache
from typing import Any

from celery import Celery
from celery.backends.redis import RedisBackend, ResultConsumer
from celery.schedules import crontab
from celery.signals import (
    after_setup_logger,
    heartbeat_sent,
    worker_before_create_process,
    worker_init,
    worker_process_init,
)
from kombu.entity import Queue

from nexus_tasks.broker_tls import broker_of, results_of
from nexus_tasks.builder import tasks as builder_tasks
from nexus_tasks.builder.remote import BUILD
from nexus_tasks.builder.tasks import BUILD_HARD_LIMIT_S, DISPATCH_BUILDS
from nexus_tasks.config import Settings, get_settings
from nexus_tasks.db.engine import forget_connections_after_fork
from nexus_tasks.delivery import tasks
from nexus_tasks.delivery.canvas import ARCHIVE, BY_BEAT, DISPATCH, PRUNE
from nexus_tasks.deployment import deployment_of
from nexus_tasks.exporters.registry import Registry, get_registry, import_exporters
from nexus_tasks.monitoring.logs import write_log_files
from nexus_tasks.monitoring.presence import Presence
from nexus_tasks.monitoring.task_events import BatchedTaskEvents
from nexus_tasks.queues import BUILDS_QUEUE, EXPORT, EXPORTS_QUEUE
from nexus_tasks.redis_transport import AmqpWithOneClient

VISIBILITY_TIMEOUT_S = 3600  # a Redis message that is not acknowledged this long comes again
RESULT_EXPIRES_S = 86_400  # results are for chords and for people looking; the truth is in PostgreSQL
SOFT_SHUTDOWN_S = 90  # how long SIGQUIT, or a second Ctrl-C, waits for HTTP calls; SIGTERM waits until they have ended
ARCHIVE_INTERVAL_S = 60
BUILD_PATIENCE_MS = 2 * BUILD_HARD_LIMIT_S * 1000  # RabbitMQ's: a build may wait in a worker behind another one
PRUNED_AT = crontab(hour="3", minute="17")  # UTC, once a day; an interval would begin anew with each start of beat

# How long a broker or backend may be silent. A builder waits twice, and goes on within three seconds; more than the
# second in which kombu has Redis wait for a message, or an answer that is on its way counts as lost
SILENCE_S = 1.3
WORKERS_SILENCE_S = 20  # nobody waits for a worker: one that is slow for a moment costs neither connection nor chord
RETRY_POLICY = {"max_retries": 1, "interval_start": 0}  # a pooled connection that a restart has cut is replaced

_REDIS_OPTIONS = {
    "visibility_timeout": VISIBILITY_TIMEOUT_S,
    "unacked_restore_throttle": 1,  # looks for them every 10 s instead of every 100 s
    "socket_connect_timeout": 3,
    "socket_timeout": WORKERS_SILENCE_S,
    "socket_keepalive": True,
}
_RABBITMQ_OPTIONS = {"confirm_publish": True}  # without it a message that a dying server loses counts as sent

logger = logging.getLogger(__name__)


class _NoConsumer(ResultConsumer):  # type: ignore[misc]
    """Subscribes to nothing."""

    def consume_from(self, task_id: str) -> None:
        """Nobody waits for this result."""

    def cancel_for(self, task_id: str) -> None:
        """See `consume_from`."""


class RedisResults(RedisBackend):  # type: ignore[misc]
    """Celery's Redis backend without subscriptions: chords count results, nobody waits for one in a process.

    Subscribing would cost every publisher and worker process a connection, which breaks for good when the server is
    away for longer than its retries.
    """

    ResultConsumer = _NoConsumer


class _App(Celery):  # type: ignore[misc]
    """Gives up a silent broker soon where it publishes, unless this is a worker."""

    amqp_cls = f"{AmqpWithOneClient.__module__}:{AmqpWithOneClient.__qualname__}"
    silence: float = SILENCE_S

    def be_patient(self) -> None:
        """Wait as long as a worker may; before anything is published."""
        self.silence = self.conf.redis_socket_timeout = WORKERS_SILENCE_S

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """A connection to publish with, or to ask something."""
        if self.conf.broker_url.startswith("amqp"):
            silences = {"read_timeout": self.silence, "write_timeout": self.silence}
        else:
            silences = {"socket_timeout": self.silence, "socket_connect_timeout": SILENCE_S}
        options["transport_options"] = {**silences, **(options.get("transport_options") or {})}
        options["connect_timeout"] = options.get("connect_timeout") or 2 * self.silence  # RabbitMQ's, for its handshake
        return super().connection_for_write(url, **options)


def result_backend(url: str) -> str:
    """The backend as Celery wants it named."""
    return f"{__name__}:{RedisResults.__name__}+{url}" if counts_chords_itself(url) else url


def counts_chords_itself(url: str) -> bool:
    """Whether a chord's results are counted as they come in; other backends look for stored results."""
    return url.startswith(("redis://", "rediss://"))


@lru_cache(maxsize=1)
def get_app() -> Celery:
    """The app of this process, made once from its settings."""
    return create_app(get_settings(), get_registry())


def create_app(settings: Settings, registry: Registry) -> Celery:
    """Make an app with a queue and a task for each destination in `registry`."""
    app = _App("nexus_tasks", set_as_current=True)
    app.conf.update(configuration(settings, registry))
    app.steps["consumer"].update({Presence, BatchedTaskEvents})
    tasks.register(app, registry)
    builder_tasks.register(app)
    return app


def route(name: str, *_: Any, **__: Any) -> dict[str, str]:
    """Each destination's task goes to the queue of its name, builds to `builds`, everything else to `exports`."""
    if name == BUILD:
        return {"queue": BUILDS_QUEUE}
    return {"queue": name if name.startswith(EXPORT) else EXPORTS_QUEUE}


def _queue(name: str) -> Queue:
    """A queue; RabbitMQ (3.12 and newer) is told that a build may keep its message for long. Redis ignores that."""
    patience = {"x-consumer-timeout": BUILD_PATIENCE_MS} if name == BUILDS_QUEUE else None
    return Queue(name, queue_arguments=patience)  # type: ignore[no-untyped-call]


def configuration(settings: Settings, registry: Registry) -> dict[str, Any]:
    """What Celery is told."""
    queues = [EXPORT + destination.name for destination in registry.destinations] + [EXPORTS_QUEUE, BUILDS_QUEUE]
    broker_url, broker_tls = broker_of(settings)
    results_url, results_tls = results_of(settings)
    return {
        "broker_url": broker_url,
        "result_backend": result_backend(results_url),
        "broker_use_ssl": broker_tls,
        "redis_backend_use_ssl": results_tls,
        "timezone": "UTC",
        # JSON only: a message can carry data, never code
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # a worker without -Q takes all queues, those of plugins too
        "task_queues": [_queue(name) for name in queues],
        "task_default_queue": EXPORTS_QUEUE,
        "task_create_missing_queues": True,
        "task_routes": (route,),
        # a message is acknowledged when its task has ended; one whose worker died comes again
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": _RABBITMQ_OPTIONS if broker_url.startswith("amqp") else _REDIS_OPTIONS,
        # a broker or backend that restarts: workers wait for it, publishers give up within a second (three, if silent)
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # RabbitMQ closes a channel whose message it got no answer for in time
        "task_publish_retry_policy": RETRY_POLICY,
        "result_backend_always_retry": True,
        "result_backend_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "retry_policy": RETRY_POLICY,
        },
        "redis_socket_connect_timeout": SILENCE_S,
        "redis_socket_timeout": SILENCE_S,
        "redis_socket_keepalive": True,
        # The last task of a canvas and, with Redis, the members of a chord hand their results on without storing them:
        # what became of a record stands in PostgreSQL, and Flower shows results from events. Storing all results costs
        # 15 % of a canvas's processor in the workers and 28 % in the broker. Errors are stored, for people who look.
        "task_ignore_result": counts_chords_itself(results_url),
        "task_store_errors_even_if_ignored": True,
        "result_expires": RESULT_EXPIRES_S,
        "result_extended": True,  # name and arguments beside an error; free where no result is stored
        "result_backend_thread_safe": True,  # one pool of connections for all threads, not a client for each
        # stopping gently
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_S,
        # Flower sees every task from the moment that a worker has it, with arguments and result
        "worker_send_task_events": True,  # a tenth of the workers' processor as Celery sends them: see `task_events`
        # would show a task that waits in its queue, too: 7 % of the workers' processor, and 32 % of a publisher's
        "task_send_sent_event": False,
        "task_track_started": False,  # the event says it; stored beside stored results it costs another 20 %
        "worker_hijack_root_logger": True,
        "beat_schedule": {
            **{
                name: {
                    "task": name,
                    "schedule": settings.NX_DISPATCH_INTERVAL,
                    "options": {
                        "expires": max(30.0, 2 * settings.NX_DISPATCH_INTERVAL),  # none piles up
                        "headers": {BY_BEAT: True},
                    },
                }
                for name in (DISPATCH, DISPATCH_BUILDS)
            },
            ARCHIVE: {"task": ARCHIVE, "schedule": ARCHIVE_INTERVAL_S, "options": {"expires": ARCHIVE_INTERVAL_S}},
            PRUNE: {"task": PRUNE, "schedule": PRUNED_AT, "options": {"expires": 3600}},
        },
    }


@after_setup_logger.connect  # type: ignore[untyped-decorator]
def _log_to_files(**_: Any) -> None:
    write_log_files(get_settings())


@after_setup_logger.connect  # type: ignore[untyped-decorator]
def _one_line_a_task(loglevel: int | None = None, **_: Any) -> None:
    """At level INFO, log how a task ended, and not that it was received: the two lines cost 7 % of the processor."""
    if loglevel == logging.INFO:
        logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)


@worker_init.connect  # type: ignore[untyped-decorator]
def _be_patient(sender: Any, **_: Any) -> None:
    if isinstance(sender.app, _App):
        sender.app.be_patient()


@worker_init.connect  # type: ignore[untyped-decorator]
def _load_everything(sender: Any, **_: Any) -> None:
    """Make what every task needs before its process or thread starts: processes share its memory, threads the object.

    An engine connects when it is first used, so no connection is inherited.
    """
    deployment_of(sender.app)
    import_exporters()


@worker_before_create_process.connect  # type: ignore[untyped-decorator]
def _share_memory(**_: Any) -> None:
    """Keep the garbage collector, in this process and in the new one, away from objects that both share.

    It writes to each object that it looks at, and a page that is written to is shared no longer.
    """
    gc.collect()
    gc.freeze()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _after_fork(**_: Any) -> None:
    forget_connections_after_fork()


@heartbeat_sent.connect  # type: ignore[untyped-decorator]
def _show_life(**_: Any) -> None:
    """Every 2 s, while the worker's event loop turns and the broker takes its events."""
    file = get_settings().NX_HEARTBEAT_FILE
    if file is not None:
        file.touch()
