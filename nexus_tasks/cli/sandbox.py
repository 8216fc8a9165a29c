"""`nexus-tasks sandbox`: the embedded services, left running; and faults for the stand-ins.

What it needs is imported where it is used: the extra `sandbox` is missing where nexus-tasks is installed for work.
"""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import requests
import typer
from rich.markup import escape

from nexus_tasks.cli.output import CommandError, Json, console, print_json
from nexus_tasks.db import migrate

cli = typer.Typer(no_args_is_help=True, help="Embedded PostgreSQL, Valkey and stand-ins for the three services.")

Folder = Annotated[Path, typer.Option("--dir", help="The sandbox's folder.")]


@cli.command()
def up(folder: Folder) -> None:
    """Start a fresh sandbox and leave it running; DIR/env holds the settings that lead to it."""
    from nexus_tasks.sandbox.process_record import stop_stale
    from nexus_tasks.sandbox.sandbox import ENVIRONMENT_FILE, Sandbox, service_urls

    sandbox = Sandbox.fresh(folder)
    try:
        sandbox.start()
        migrate.upgrade(sandbox.postgres.url)
    except BaseException:
        stop_stale(folder)
        raise
    for name, url in service_urls(folder).items():
        console.print(f"{name:12} {url}")
    console.print(f"Settings: {escape(str(sandbox.folder / ENVIRONMENT_FILE))}", soft_wrap=True)


@cli.command()
def down(folder: Folder) -> None:
    """Stop what runs in the folder; the files stay."""
    from nexus_tasks.sandbox.process_record import stop_stale
    from nexus_tasks.sandbox.sandbox import MARKER

    if not (folder / MARKER).is_file():
        raise CommandError(f"There is no sandbox in {folder}.")
    ended = stop_stale(folder)
    console.print(f"{len(ended)} processes stopped." if ended else "Nothing was running.")


@cli.command()
def fault(
    destination: Annotated[str, typer.Argument(help="cdcs, elabftw or labarchives.")],
    folder: Folder,
    kind: Annotated[
        str | None,
        typer.Option(help="latency, status, status_after, reset, reset_after, hang, hang_after, truncate or late."),
    ] = None,
    status: Annotated[int | None, typer.Option(help="HTTP status, for status and status_after.")] = None,
    seconds: Annotated[float | None, typer.Option(help="For latency, hang and late.")] = None,
    retry_after: Annotated[float | None, typer.Option(help="Seconds, sent with the status.")] = None,
    times: Annotated[int | None, typer.Option(help="Only so many calls; for ever if not given.")] = None,
    rate: Annotated[float, typer.Option(help="The share of calls, 0 to 1.")] = 1.0,
    path: Annotated[str | None, typer.Option(help="Only calls in whose path this expression is found.")] = None,
    method: Annotated[str | None, typer.Option(help="Only calls with this method.")] = None,
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Take all faults of this stand-in away.")] = False,
) -> None:
    """Make a stand-in misbehave, or behave again."""
    from nexus_tasks.sandbox.services import client

    url = _url(folder, destination)
    if not clear and kind is None:
        raise CommandError("Say which fault with --kind, or --clear.")
    wanted: dict[str, Any] = {
        "kind": kind,
        "status": status,
        "seconds": seconds,
        "retry_after": retry_after,
        "times": times,
        "rate": rate,
        "path": path,
        "method": method,
    }
    try:
        existing = [] if clear else client.faults(url)
        in_force = client.set_faults(url, [] if clear else [*existing, wanted])
    except ValueError as error:
        raise CommandError(f"{error}.") from error
    except requests.RequestException as error:
        raise _silent(destination, url) from error
    for item in in_force:
        console.print_json(json_module.dumps({key: value for key, value in item.items() if value is not None}))
    if not in_force:
        console.print(f"{destination} behaves.")


@cli.command()
def calls(destination: str, folder: Folder, *, json: Json = False) -> None:
    """Show what a stand-in was asked."""
    from nexus_tasks.sandbox.services import client

    url = _url(folder, destination)
    try:
        counted = client.calls(url)
    except requests.RequestException as error:
        raise _silent(destination, url) from error
    if json:
        print_json(counted)
        return
    console.print_json(json_module.dumps({key: value for key, value in counted.items() if key != "recent"}))


def _silent(destination: str, url: str) -> CommandError:
    return CommandError(f"The stand-in for {destination} does not answer at {url}.")


def _url(folder: Path, destination: str) -> str:
    from nexus_tasks.sandbox.sandbox import service_urls

    urls = service_urls(folder)
    if destination not in urls:
        raise CommandError(f"There is no stand-in for {destination}: choose one of {', '.join(urls)}.")
    return urls[destination]
