"""PostgreSQL and Valkey of one contender, as the sandbox has them, and what they count."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import redis

from nexus_tasks.sandbox.postgres import SUPERUSER, EmbeddedPostgres
from nexus_tasks.sandbox.valkey import EmbeddedValkey
from tests.benchmarks.usage import Processor, processor_seconds

COUNTING = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.max": "10000"}
MARK = "/* of the benchmark */"  # in the harness's own statements, which count as nobody's

# BEGIN and COMMIT are not counted as statements. An empty query, as SQLAlchemy's ping is, counts as a transaction only.
_STATEMENTS = f"""
SELECT coalesce(sum(calls) FILTER (WHERE query ~* '^\\s*(BEGIN|COMMIT|ROLLBACK)'), 0),
       coalesce(sum(calls) FILTER (WHERE query ~* '^\\s*COMMIT'), 0),
       coalesce(sum(calls), 0)
FROM pg_stat_statements
JOIN pg_database ON pg_database.oid = dbid
WHERE datname = current_database() AND query NOT LIKE '%{MARK}%' {MARK}
"""
_FEW_POLLS = {"cmdstat_info", "cmdstat_brpop", "cmdstat_ping", "cmdstat_client|setinfo", "cmdstat_hello"}


@dataclass(frozen=True)
class Counts:
    """What database and broker have done."""

    transactions: int
    statements: int
    without_begin: int  # of the transactions: pings, and single statements in autocommit
    commands: int  # of the broker, without waiting for messages
    messages: int  # put into queues
    events: int  # published, for whoever watches
    broker_kilobytes: float

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(
            self.transactions - earlier.transactions,
            self.statements - earlier.statements,
            self.without_begin - earlier.without_begin,
            self.commands - earlier.commands,
            self.messages - earlier.messages,
            self.events - earlier.events,
            self.broker_kilobytes - earlier.broker_kilobytes,
        )


class Servers:
    """Both servers, and one connection of the harness to the database, in autocommit; a context manager."""

    def __init__(self, folder: Path, postgres_options: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.counting = "shared_preload_libraries" in (postgres_options or {})
        self.postgres = EmbeddedPostgres(folder / "postgres", options=postgres_options)
        self.valkey = EmbeddedValkey(folder / "valkey")
        self._connection: psycopg.Connection | None = None
        self._asked = 0

    def __enter__(self) -> Self:
        self.postgres.start()
        self.valkey.start()
        self._connection = psycopg.connect(
            host="127.0.0.1", port=self.postgres.port, user=SUPERUSER, dbname="nexus", autocommit=True
        )
        if self.counting:
            self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        self.valkey.stop()
        self.postgres.stop()

    def ask(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows; every question is a transaction, which `counts` leaves out."""
        assert self._connection is not None
        self._asked += 1
        return self._connection.execute(f"{query} {MARK}".encode(), parameters).fetchall()

    def processor(self, worker_pid: int) -> Processor:
        """Of a worker and of both servers."""
        return Processor(
            processor_seconds(worker_pid),
            processor_seconds(self.postgres.process.pid),
            processor_seconds(self.valkey.process.pid),
        )

    def counts(self) -> Counts:
        """Until now. Backends tell their transactions when they close, or ten seconds after their last one."""
        [(transactions,)] = self.ask("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        control, commits, statements = self.ask(_STATEMENTS)[0] if self.counting else (0, 0, 0)
        with redis.Redis.from_url(self.valkey.url) as client:
            stats: dict[str, Any] = dict(client.info("stats"))
            commands: dict[str, Any] = dict(client.info("commandstats"))
        return Counts(
            transactions=transactions - self._asked,
            statements=int(statements - control),
            without_begin=transactions - self._asked - int(commits),
            commands=sum(stat["calls"] for name, stat in commands.items() if name not in _FEW_POLLS),
            messages=commands.get("cmdstat_lpush", {}).get("calls", 0),
            events=commands.get("cmdstat_publish", {}).get("calls", 0),
            broker_kilobytes=(stats["total_net_input_bytes"] + stats["total_net_output_bytes"]) / 1000,
        )
