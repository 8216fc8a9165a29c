"""Goes the whole way once, everything embedded: services, workers, records, exports, links; `demo` calls it."""

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from nexus_tasks.builder.record_builder import SessionOutcome, process_new_records
from nexus_tasks.cli.output import CommandError, console, errors, print_json, sessions_table
from nexus_tasks.cli.waiting import at_rest, watch
from nexus_tasks.db import migrate
from nexus_tasks.db.engine import transaction
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import enter
from nexus_tasks.monitoring.logs import write_log_files
from nexus_tasks.monitoring.status import SessionView
from nexus_tasks.sandbox import celery_processes, folder_sessions, sample_data
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.real_cdcs.environment import ensure_environment, is_made
from nexus_tasks.sandbox.real_cdcs.server import ACCOUNTS
from nexus_tasks.sandbox.sandbox import Sandbox
from nexus_tasks.states import SessionStatus

LONGEST_DEMO_S = 900  # after that it says what hangs


def demonstrate(sessions: int, data: Path | None, folder: Path, *, keep: bool, real_cdcs: bool, as_json: bool) -> None:
    """What `demo` promises; raises `typer.Exit` when a session is not completed, and `PlainError`."""
    started = time.monotonic()
    if data is not None:
        folder_sessions.sessions_in(data)  # what is wrong with it is said before anything is started
    say = _Silent() if as_json else console
    cdcs_python = _cdcs_python(say) if real_cdcs else None
    sandbox = Sandbox.fresh(folder, cdcs_python)
    addresses: dict[str, str] = {}
    with ExitStack() as stack:
        if not keep:
            stack.enter_context(Lifeline(sandbox.folder))
        with ExitStack() as running:  # stopped in reverse order, unless all went well and --keep was said
            say.print(f"Starting PostgreSQL, Valkey{_services(real_cdcs=real_cdcs)} …")
            running.callback(sandbox.stop)
            sandbox.start()
            environment = _environment(sandbox, data)
            deployment = enter(environment)
            write_log_files(deployment.settings)
            migrate.upgrade(sandbox.postgres.url)
            say.print("Starting a Celery worker and beat …")
            _start(running, _celery(sandbox, environment, addresses, with_flower=keep))
            _add_sessions(deployment, data, sessions, say)
            views, outcomes = _run(deployment, live=not as_json)
            if keep:
                running.pop_all()
    seconds = time.monotonic() - started
    _report(views, outcomes, seconds, sandbox, addresses, as_json=as_json)
    if not all(item.record_status is SessionStatus.COMPLETED for item in views):
        raise typer.Exit(1)


def _cdcs_python(say: Any) -> Path:
    """The Python that CDCS runs with, installed before anything is started."""
    if not is_made():
        say.print("Installing CDCS and what it needs, once: 50 packages, about 250 MB …")
        started = time.monotonic()
        ensure_environment()
        say.print(f"Installed in {time.monotonic() - started:.0f} s.")
    return ensure_environment()


def _services(*, real_cdcs: bool) -> str:
    if real_cdcs:
        return ", CDCS and stand-ins for eLabFTW and LabArchives"
    return " and stand-ins for CDCS, eLabFTW and LabArchives"


def _environment(sandbox: Sandbox, data: Path | None) -> dict[str, str]:
    environment = sandbox.environment()
    if data is not None:
        environment["NX_INSTRUMENT_DATA_PATH"] = str(data.absolute())
        # What a demo is given is all of it, and whole, however new the copies are.
        environment |= {"NX_FILE_STRATEGY": "inclusive", "NX_FILE_QUIET": "0"}
    return environment


def _celery(
    sandbox: Sandbox, environment: dict[str, str], addresses: dict[str, str], *, with_flower: bool
) -> list[ManagedProcess]:
    processes = [
        celery_processes.worker(sandbox.folder, environment),
        celery_processes.beat(sandbox.folder, environment),
    ]
    if with_flower:
        flower, addresses["Flower"] = celery_processes.flower(sandbox.folder, environment)
        processes.insert(0, flower)
    for name in ("CDCS", "ELABFTW", "LABARCHIVES"):
        addresses[name] = environment[f"NX_{name}_URL"]
    return processes


def _start(running: ExitStack, processes: Sequence[ManagedProcess]) -> None:
    for process in processes:
        running.callback(process.stop)
        process.start()


def _add_sessions(deployment: Deployment, data: Path | None, count: int, say: Any) -> None:
    root = deployment.settings.NX_INSTRUMENT_DATA_PATH
    if root is None:
        raise CommandError("NX_INSTRUMENT_DATA_PATH is missing.")
    if data is None:
        say.print(
            f"No --data was given: making up small files for {count} sessions in {escape(str(root))}", soft_wrap=True
        )
        sample_data.make(root, count)
    with transaction(deployment.engine) as connection:
        folder_sessions.add(connection, folder_sessions.sessions_in(root))


def _run(deployment: Deployment, *, live: bool) -> tuple[list[SessionView], list[SessionOutcome]]:
    """Build in a thread, so that the exports of the first records can be watched meanwhile."""
    outcomes: list[SessionOutcome] = []
    failures: list[BaseException] = []

    def build() -> None:
        try:
            outcomes.extend(process_new_records(deployment))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that people see
            failures.append(error)

    builder = threading.Thread(target=build, name="builder", daemon=True)
    builder.start()
    deadline = time.monotonic() + LONGEST_DEMO_S
    views = watch(
        deployment,
        None,
        until=lambda seen: (not builder.is_alive() and at_rest(seen)) or time.monotonic() > deadline,
        live=live,
    )
    if failures:
        raise failures[0]
    return views, outcomes


def _report(
    views: Sequence[SessionView],
    outcomes: Sequence[SessionOutcome],
    seconds: float,
    sandbox: Sandbox,
    addresses: dict[str, str],
    *,
    as_json: bool,
) -> None:
    for outcome in outcomes:
        if outcome.problem:
            told = f"Session {outcome.session_identifier}: {outcome.problem}"
            errors.print(told, style="red", markup=False, soft_wrap=True)
    if as_json:
        print_json({"seconds": round(seconds, 1), "sessions": [_session_document(item) for item in views]})
        return
    completed = sum(item.record_status is SessionStatus.COMPLETED for item in views)
    console.print(sessions_table(views))
    console.print(f"{completed} of {len(views)} sessions completed in {seconds:.0f} s.")
    console.print(f"Records, previews and logs: {escape(str(sandbox.folder))}", soft_wrap=True)
    if "Flower" in addresses:
        for name, url in addresses.items():
            console.print(f"{name:12} {url}")
        if sandbox.cdcs is not None:
            names = " or as ".join(f"{account.name} with the password {account.password}" for account in ACCOUNTS)
            console.print(f"In CDCS everybody may read these records; log in as {names}.", soft_wrap=True)
        console.print(f"Stop it with: nexus-tasks sandbox down --dir {escape(str(sandbox.folder))}", soft_wrap=True)
    else:
        console.print("The links open with --keep, which leaves the services, the worker and Flower running.")


def _session_document(item: SessionView) -> dict[str, Any]:
    keys = ("destination", "state", "record_id", "record_url", "attempts")
    document = item.document()
    return {
        "session_identifier": document["session_identifier"],
        "record_status": document["record_status"],
        "record": document["record"],
        "deliveries": [{key: delivery[key] for key in keys} for delivery in document["deliveries"]],
    }


class _Silent:
    """Says nothing: `--json` prints one document and nothing else."""

    def print(self, *_: object, **__: object) -> None:
        """Nothing."""
