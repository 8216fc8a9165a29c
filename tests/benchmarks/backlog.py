"""What a backlog costs: records exported while 100 to 100,000 wait, the hand-over itself, one planning of a million.

A large backlog is not handed over record by record: its rows are copies of those of one record that was.
"""

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.contender import LONGEST_S, NotExportedError
from tests.benchmarks.figures import OURS, Collected, Figure
from tests.benchmarks.options import WARM_UP, Options
from tests.benchmarks.ours import LEAST_IN_FLIGHT, Installation, not_paced
from tests.benchmarks.services import Services

PART = "backlog"
DRAINED = 60  # records of a round
PROCESSES = 4
HANDED_OVER = 200  # records in one call
PLANNED_OF = 333_334  # records, a million deliveries, behind an open circuit breaker
PLANNINGS = 5
POLL_S = 0.1
COPY_OF_SESSION = "session_identifier || '-copy-' || number"
LARGE_TABLE = 10_000  # rows; a table that is read in sequence must be smaller
COPIED = ("record", "session_log", "delivery")  # tables with rows of a record that was handed over and not yet planned

_PLANS = {"session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0"}
_SCAN = re.compile(r"Seq Scan on (\w+)")
_DURATION = re.compile(r"duration: ([0-9.]+) ms  plan:")
_DONE = """
SELECT count(*) FROM (
    SELECT session_identifier FROM upload_log WHERE success = 1 GROUP BY session_identifier HAVING count(*) = 3) AS done
"""


def measure(folder: Path, options: Options) -> list[Figure]:
    """See the module."""
    found = Collected(PART)
    if OURS in options.contenders:
        for waiting in options.waiting:
            _drain(found, options, folder / f"waiting-{waiting}", waiting)
        _hand_over_and_plan(found, options, folder / "planning")
        first, last = options.waiting[0], options.waiting[-1]
        name = f"{_cost(last)} over {first:,}"
        found.ratio(name, (_cost(last), OURS), (_cost(first), OURS))
    return found.figures()


def copy_rows(installation: Installation, session: str, count: int) -> None:
    """Add so many records that wait like this session's, which must have been handed over and not yet planned."""
    ask, execute = installation.servers.ask, installation.servers.execute
    columns = {
        table: [
            name
            for (name,) in ask(
                "SELECT quote_ident(column_name) FROM information_schema.columns "
                "WHERE table_schema = 'public' AND table_name = %(table)s AND is_identity = 'NO'",
                {"table": table},
            )
        ]
        for table in COPIED
    }
    given = {"session": session, "count": count}
    for table in ("record", "session_log"):
        values = [COPY_OF_SESSION if name == "session_identifier" else name for name in columns[table]]
        execute(
            f"INSERT INTO {table} ({', '.join(columns[table])}) SELECT {', '.join(values)} "
            f"FROM {table}, generate_series(1, %(count)s) AS number WHERE session_identifier = %(session)s",
            given,
        )
    values = ["copy.id" if name == "record_id" else f"delivery.{name}" for name in columns["delivery"]]
    execute(
        f"INSERT INTO delivery ({', '.join(columns['delivery'])}) SELECT {', '.join(values)} "
        "FROM record JOIN delivery ON delivery.record_id = record.id "
        "JOIN record AS copy ON copy.session_identifier LIKE %(session)s || '-copy-%%' "
        "WHERE record.session_identifier = %(session)s ORDER BY copy.id, delivery.id",
        given,
    )
    execute("ANALYZE", {})


def _drain(found: Collected, options: Options, folder: Path, waiting: int) -> None:
    """Export some records while so many others wait."""
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))
        ours = parts.enter_context(Installation(folder / "ours", services))
        settings = not_paced(PROCESSES)
        ours.configure(settings)
        handed = options.new_records(LEAST_IN_FLIGHT + 1)  # the last of them is not planned: nothing has room for it
        ours.hand_over(handed)
        copy_rows(ours, handed[-1].session, waiting + options.rounds * DRAINED)
        options.say(f"backlog: {waiting:,} waiting")
        ours.start_workers(PROCESSES, settings, options.pool)
        done = _wait_for(ours, WARM_UP)
        for _ in range(options.rounds):
            before, started, first = ours.processor(), time.perf_counter(), done
            done = _wait_for(ours, first + DRAINED)
            seconds, used = time.perf_counter() - started, ours.processor() - before
            found.add(_cost(waiting), OURS, "ms/record", 1000 * used.total / (done - first))
            found.add(f"{waiting:,} waiting: throughput", OURS, "records/s", (done - first) / seconds)
        found.add(
            f"{waiting:,} waiting: memory of the worker's processes (PSS)", OURS, "MB", ours.memory().proportional
        )


def _cost(waiting: int) -> str:
    return f"{waiting:,} waiting: workers, PostgreSQL, broker"


def _wait_for(ours: Installation, count: int) -> int:
    """Until at least so many records are at every destination; how many there are then."""
    started = time.perf_counter()
    while True:
        [(done,)] = ours.servers.ask(_DONE)
        if done >= count:
            return int(done)
        if time.perf_counter() - started > LONGEST_S:
            raise NotExportedError(f"Only {done} of {count} records after {LONGEST_S} s.")
        time.sleep(POLL_S)


def _hand_over_and_plan(found: Collected, options: Options, folder: Path) -> None:
    with ExitStack() as parts:
        services = parts.enter_context(Services(folder))
        ours = parts.enter_context(Installation(folder / "ours", services))
        ours.configure({})
        for number in range(options.rounds):
            options.say(f"backlog: hand-over, round {number + 1} of {options.rounds}")
            records = options.new_records(HANDED_OVER)
            found.add(
                f"hand-over of {HANDED_OVER} in one call", OURS, "records/s", HANDED_OVER / ours.hand_over(records)
            )
        options.say(f"backlog: {3 * PLANNED_OF:,} deliveries behind an open circuit breaker")
        ours.command("destinations", "pause", "cdcs")
        copy_rows(ours, records[-1].session, PLANNED_OF)
        ours.plan()  # connections, and what the statements need once
        for _ in range(max(PLANNINGS, options.rounds)):
            found.add(f"one planning, {3 * PLANNED_OF:,} deliveries waiting", OURS, "ms", 1000 * ours.plan())
        scans, durations = _explained(ours)
        found.add("one planning: statements with a plan", OURS, "statements", len(durations))
        found.add("one planning: sequential scans of large tables", OURS, "scans", len(scans))
        found.add("one planning: slowest statement", OURS, "ms", max(durations))
        if scans:
            options.say(f"read in sequence: {', '.join(sorted(scans))}")


def _explained(ours: Installation) -> tuple[Sequence[str], Sequence[float]]:
    """The large tables that one planning reads in sequence, and the milliseconds of each of its statements."""
    for name, value in _PLANS.items():
        ours.servers.execute(f"ALTER ROLE nexus SET {name} = '{value}'", {})
    ours.deployment.engine.dispose()  # the next connections explain what they are asked
    log = ours.servers.postgres.process
    start = len(log.logs_since_start())
    ours.plan()
    text = log.logs_since_start()[start:]
    large = {
        name
        for (name,) in ours.servers.ask(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples > %(rows)s", {"rows": LARGE_TABLE}
        )
    }
    scans = [table for table in _SCAN.findall(text) if table in large]
    return scans, [float(each) for each in _DURATION.findall(text)]
