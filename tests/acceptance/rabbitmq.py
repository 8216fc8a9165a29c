"""A RabbitMQ server of the tests' own, from Debian's `rabbitmq-server`, as plain processes in a folder.

Nothing of the machine's own RabbitMQ is touched: node name, cookie, ports and data are the folder's, no plugin runs,
and everything listens on loopback. Each user of the server takes a virtual host of its own.
"""

import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer

from nexus_tasks.sandbox.embedded import EmbeddedServer
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.ports import free_port
from tests.requirements import require, require_program

PROGRAMS = Path("/usr/lib/rabbitmq/bin")  # those in the path change to the system's user and its configuration
READY = "Server startup complete"
COMMAND_DEADLINE = 60.0  # seconds
LISTEN_POLL = 0.2  # seconds
TRACED_TOO_LATE = 1.0  # seconds: a message is traced after its publisher has gone on


class RabbitMq(EmbeddedServer):
    """`configuration` are more lines for `rabbitmq.conf`, `parameters` for what has no line there.

    Data survive `kill()` and `start()`.
    """

    title = "RabbitMQ"

    def __init__(
        self, folder: Path, configuration: Sequence[str] = (), parameters: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(folder, None)
        require_program("epmd")
        require((PROGRAMS / "rabbitmq-server").exists(), "rabbitmq-server is not installed")
        self._configuration = configuration
        self._parameters = dict(parameters or {})
        self._epmd_port, self._node_port = free_port(), free_port()
        command = ["epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port)]
        self._names = ManagedProcess("epmd", command, self.folder)  # RabbitMQ's own would outlive it

    @property
    def url(self) -> str:
        """The default virtual host."""
        return self.url_of("%2F")

    def url_of(self, virtual_host: str) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{virtual_host}"

    def start(self) -> None:
        if not self._names.is_running():
            self._names.start()
        self._start_on_a_port()

    def stop(self) -> None:
        super().stop()
        self._names.stop()

    def add_virtual_host(self, name: str) -> str:
        """Make an empty virtual host; its address."""
        self._evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"guest">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"guest">>).'
        )
        return self.url_of(name)

    @contextmanager
    def listening(self, virtual_host: str) -> Iterator[list[str]]:
        """Every message that is published in a virtual host meanwhile, its headers and its body."""
        messages: list[str] = []
        bound, over = threading.Event(), threading.Event()
        tracing = Exchange("amq.rabbitmq.trace", type="topic", passive=True)  # type: ignore[no-untyped-call]
        everything = Queue("heard", tracing, "publish.#", auto_delete=True)  # type: ignore[no-untyped-call]

        def hear(body: object, message: object) -> None:
            messages.append(f"{getattr(message, 'headers', None)} {body!r}")

        def listen() -> None:
            with (
                Connection(self.url_of(virtual_host)) as connection,  # type: ignore[no-untyped-call]
                Consumer(connection, [everything], callbacks=[hear], no_ack=True),  # type: ignore[no-untyped-call]
            ):
                bound.set()
                while not over.is_set():
                    try:
                        connection.drain_events(timeout=LISTEN_POLL)
                    except TimeoutError:
                        continue

        self._evaluate(f'rabbit_trace:start(<<"{virtual_host}">>).')
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        assert bound.wait(10)
        try:
            yield messages
        finally:
            time.sleep(TRACED_TOO_LATE)
            over.set()
            listener.join(10)
            self._evaluate(f'rabbit_trace:stop(<<"{virtual_host}">>).')

    def _server(self, port: int) -> ManagedProcess:
        self.data.mkdir(parents=True, exist_ok=True)
        lines = [f"listeners.tcp.local = 127.0.0.1:{port}", "log.console = true", *self._configuration]
        (self.folder / "rabbitmq.conf").write_text("\n".join([*lines, ""]), encoding="utf-8")
        terms = ",".join(f"{{{name},{value}}}" for name, value in self._parameters.items())
        (self.folder / "advanced.config").write_text(f"[{{rabbit,[{terms}]}}].\n", encoding="utf-8")
        (self.folder / "plugins").write_text("[].\n", encoding="utf-8")
        process = ManagedProcess(
            "rabbitmq",
            [PROGRAMS / "rabbitmq-server"],
            self.folder,
            env=self._environment(),
            ready=lambda: READY in process.logs_since_start(),
            deadline=60,
        )
        return process

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),  # where Erlang keeps its cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"nexus{self._node_port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
        }

    def _evaluate(self, erlang: str) -> None:
        """Have the server evaluate an expression: far faster than a command each."""
        done = subprocess.run(
            [PROGRAMS / "rabbitmqctl", "--quiet", "eval", erlang],
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **self._environment()},
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
