"""Every statement that a delivery passes through finds its rows by an index, however many others there are."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, event, text

from nexus_tasks.db import attempts, deliveries, destinations, planning, reconciling, rescuing
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.db.rows import AttemptEnd
from nexus_tasks.states import AttemptState, DeliveryState, RunKind
from tests.integration.db import CDCS, ELABFTW, LABARCHIVES
from tests.integration.db.backlog import add_backlog, vacuum

TABLES = {"delivery", "run", "attempt", "record"}
RECORDS = 7000
DONE = 2000  # of them
LASTING = timedelta(minutes=1)
# What records are like that do not wait for CDCS alone; record ids are dealt out to these in turn.
SHAPES = ("", "", "cdcs", "cdcs,labarchives", "required:cdcs", "unresolved:cdcs", "quarantine:")

Executed = dict[str, tuple[str, dict[str, Any]]]  # what it is for → statement, parameters


@pytest.fixture(scope="module")
def backlog(postgres_server: Any, database_template: str) -> Iterator[str]:
    """A database where CDCS has been away for long: its circuit is open, and deliveries of every shape are waiting."""
    url = postgres_server.create_database("test_plans", template=database_template)
    engine = engine_for(url)
    with transaction(engine) as connection:
        add_backlog(connection, RECORDS, CDCS, LABARCHIVES, ELABFTW)
        destinations.ensure(connection, {"cdcs": 16, "labarchives": 1, "elabftw": 16})
        connection.execute(text("UPDATE destination SET opened_at = now(), open_until = now() WHERE name = 'cdcs'"))
        connection.execute(
            text(
                "UPDATE delivery SET waits_for = (CAST(:shapes AS text[]))[1 + record_id % :number],"
                " state = CASE WHEN record_id % 3 = 0 THEN 'retrying' ELSE 'pending' END,"
                " next_attempt_at = now() + interval '1 minute' * (record_id % 200 - 100)"
                " WHERE destination <> 'cdcs' OR record_id % 10 = 0"
            ),
            {"shapes": list(SHAPES), "number": len(SHAPES)},
        )
        # every record had a run, that was closed
        connection.execute(
            text(
                "INSERT INTO run (record_id, token, state, expected_by, closed_at)"
                " SELECT id, gen_random_uuid(), 'closed', now(), now() FROM record"
            )
        )
        connection.execute(
            text(
                "INSERT INTO attempt (run_id, delivery_id, destination, state, ended_at, started_at)"
                " SELECT run.id, delivery.id, delivery.destination, 'transient', now(), now()"
                " FROM run JOIN delivery ON delivery.record_id = run.record_id"
            )
        )
        connection.execute(
            text(
                "UPDATE delivery SET state = 'succeeded', waits_for = '', succeeded_at = now()"
                " WHERE record_id > (SELECT max(id) FROM record) - :done"
            ),
            {"done": DONE},
        )
    vacuum(engine)
    yield url
    engine.dispose()
    postgres_server.drop_database("test_plans")


@pytest.fixture(scope="module")
def executed(backlog: str) -> Executed:
    """Each statement of a delivery's way, as it was sent."""
    engine = engine_for(backlog)
    found: Executed = {}
    purpose = ""

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: dict[str, Any], *_: Any) -> None:
        position = sum(name.startswith(purpose) for name in found)
        found[f"{purpose} {position}" if position else purpose] = (statement, dict(parameters))

    def say(name: str) -> None:
        nonlocal purpose
        purpose = name

    event.listen(engine, "before_cursor_execute", keep)
    runs = plan_runs(engine, say)
    make_attempt(engine, say, *runs[0][1:])
    reconcile_and_rescue(engine, say, *runs[1][:2])
    event.remove(engine, "before_cursor_execute", keep)
    return found


def plan_runs(engine: Engine, say: Callable[[str], None]) -> list[tuple[int, int, planning.NewRun]]:
    """One planning: run id, id of the attempt at LabArchives, and what was asked for."""
    with transaction(engine) as connection:
        say("capacity")
        destinations.all_rows(connection)
        say("due")
        due = planning.due(connection, {"labarchives": 1, "elabftw": 16}, {"cdcs"})
        assert {each.destination for each in due} == {"labarchives", "elabftw"}
        say("probe")
        planning.due(connection, {"cdcs": 1}, {"cdcs"})
        say("kinds")
        planning.destinations_with_open_run(connection, RunKind.PROBE)
        say("records")
        records = deliveries.of_records(connection, [each.record_id for each in due])
        planned = [
            planning.NewRun(
                record.record_id,
                uuid4(),
                RunKind.NORMAL,
                [(row.id, row.destination) for row in record.deliveries],
            )
            for record in records
        ]
        say("open runs")
        opened = planning.open_runs(connection, planned, timedelta(minutes=2))
    return [(*opened[run.deliveries[1][0]], run) for run in planned]


def make_attempt(engine: Engine, say: Callable[[str], None], attempt_id: int, run: planning.NewRun) -> None:
    """Start, commit an intent, schedule a retry, start again, finish."""
    lease, end = uuid4(), AttemptEnd(AttemptState.TRANSIENT, DeliveryState.RETRYING, 1, timedelta(minutes=1))
    say("start")
    assert attempts.start(engine, attempt_id, run.token, lease, LASTING)
    say("extend")
    assert attempts.extend(engine, attempt_id, lease, LASTING, {"record": {"unresolved_until": "2025"}}, "inputs")
    say("keep")
    attempts.keep_identifiers(engine, run.deliveries[1][0], {"record": {"id": "7"}})
    say("retry")
    with transaction(engine) as connection:
        assert attempts.schedule_retry(connection, attempt_id, lease, "away", {}, timedelta(minutes=2))
    say("start again")
    assert attempts.start(engine, attempt_id, run.token, lease, LASTING)
    say("finish")
    assert attempts.finish(engine, attempt_id, lease, end, result={}, known={}, fingerprint="inputs")


def reconcile_and_rescue(engine: Engine, say: Callable[[str], None], run_id: int, attempt_id: int) -> None:
    """What is written of records beside their attempts; it is all undone."""
    with transaction(engine) as connection:
        say("attempt")
        locked = attempts.lock(connection, attempt_id)
        assert locked is not None
        attempts.get(connection, attempt_id)
        attempts.later_started(connection, locked)
        say("expire")
        attempts.expire(connection, attempt_id, None, "inputs")
        say("cancel")
        attempts.cancel(connection, [attempt_id])
        planning.cancel_run(connection, run_id)
        say("reconcile")
        record = reconciling.lock_of_run(connection, run_id)
        assert record is not None
        reconciled = reconciling.close_and_log(connection, record)
        rows = reconciled.deliveries.deliveries
        reconciling.write(
            connection, [reconciling.Changed(row.id, "pending", row.state, row.waits_for) for row in rows]
        )
        say("attempts")
        attempts.of_records(connection, [record.id])
        say("overdue")
        rescuing.overdue(connection)
        rescuing.awaited_destinations(connection, [run_id])
        say("rescue")
        rescuing.lock(connection, run_id)
        rescuing.next_event_within(connection, run_id, LASTING)
        rescuing.expect(connection, run_id, LASTING)
        attempts.lock_of_run(connection, run_id)
        rescuing.lose(connection, run_id)
        connection.rollback()


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_no_statement_of_a_deliverys_way_looks_through_a_table(backlog: str, executed: Executed, mode: str) -> None:
    """With the plan for these very values, and with the one that a prepared statement may come to have for any."""
    assert len(executed) > 20
    with psycopg.connect(backlog, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(sql.SQL("SET plan_cache_mode = {}").format(mode))
        looked_through = {
            name: tables
            for name, (statement, parameters) in executed.items()
            if (tables := tables_looked_through(plan_of(connection, statement, parameters)))
        }
    assert looked_through == {}


def plan_of(connection: psycopg.Connection[Any], statement: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """How PostgreSQL would execute a prepared statement."""
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    prepared = re.sub(r"%\((\w+)\)s", numbered, statement).replace("%%", "%")
    connection.execute(f"PREPARE planned AS {prepared}".encode())
    arguments = "(" + ", ".join(["%s"] * len(names)) + ")" if names else ""
    row = connection.execute(
        f"EXPLAIN (FORMAT JSON) EXECUTE planned{arguments}".encode(), [parameters[name] for name in names]
    ).fetchone()
    connection.execute("DEALLOCATE planned")
    assert row is not None
    plan: dict[str, Any] = (json.loads(row[0]) if isinstance(row[0], str) else row[0])[0]["Plan"]
    return plan


def tables_looked_through(plan: dict[str, Any]) -> set[str]:
    """The tables that this plan, or a part of it, reads from one end to the other."""
    found = {plan["Relation Name"]} & TABLES if plan["Node Type"].endswith("Seq Scan") else set()
    return found.union(*(tables_looked_through(part) for part in plan.get("Plans", [])))
