"""`nexus-tasks destinations`: which ones there are and how they are; stop, start and backfill one."""

from typing import Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from nexus_tasks.cli.output import Json, console, errors, print_json
from nexus_tasks.db import deliveries
from nexus_tasks.db import destinations as rows
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.delivery import operate
from nexus_tasks.deployment import Deployment

cli = typer.Typer(invoke_without_command=True, help="Show the destinations; stop, start or backfill one.")


@cli.callback()
def show(context: typer.Context, *, json: Json = False) -> None:
    """Show every destination with ✓ or ✗ and the reason; fails when one that is enabled is not valid."""
    if context.invoked_subcommand is not None:
        return
    deployment = Deployment.current()
    health, database_problem = _health(deployment)
    found = [
        {
            "destination": destination.name,
            "priority": destination.priority,
            "enabled": destination.enabled,
            "valid": (checked := destination.validate_config())[0],
            "reason": checked[1],
            "health": health.get(destination.name, ""),
        }
        for destination in deployment.registry.destinations
    ]
    problems = [str(problem) for problem in deployment.registry.problems]
    if json:
        print_json({"destinations": found, "problems": problems})
    else:
        table = Table("destination", "priority", "enabled", "settings", "health", box=box.SIMPLE_HEAD, pad_edge=False)
        for row in found:
            mark = "[green]✓[/]" if row["valid"] else f"[red]✗[/] {escape(str(row['reason']))}"
            enabled = "yes" if row["enabled"] else "no"
            table.add_row(str(row["destination"]), str(row["priority"]), enabled, mark, escape(str(row["health"])))
        console.print(table)
        for problem in [*problems, *database_problem]:
            errors.print(problem, style="red", markup=False, soft_wrap=True)
    if problems or any(row["enabled"] and not row["valid"] for row in found):
        raise typer.Exit(1)


@cli.command()
def pause(destination: str) -> None:
    """Give a destination nothing until it is resumed."""
    operate.pause(Deployment.current(), destination)
    console.print(f"{escape(destination)} is paused until `nexus-tasks destinations resume {escape(destination)}`.")


@cli.command()
def resume(destination: str) -> None:
    """Have a paused destination get what is due."""
    operate.resume(Deployment.current(), destination)
    console.print(f"{escape(destination)} gets what is due.")


@cli.command()
def backfill(destination: str) -> None:
    """Send the older records to a destination that is new."""
    count = operate.backfill(Deployment.current(), destination)
    console.print(f"{count} records go to {escape(destination)}.")


def _health(deployment: Deployment) -> tuple[dict[str, str], list[str]]:
    """How each destination is, as far as the database can tell."""
    try:
        with transaction(deployment.engine) as connection:
            now = deliveries.clock(connection)
            found = rows.all_rows(connection)
    except DatabaseError as error:
        return {}, [str(error)]
    told: dict[str, Any] = {}
    for row in found:
        state = f"{row.open_attempts} of {row.window} under way"
        if row.health.held:
            state = "paused by an operator"
        elif row.health.wants_probe(now):
            state = f"being tried again: {row.health.reason}"
        elif row.health.not_before is not None:
            state = f"paused until {row.health.not_before.astimezone():%H:%M:%S}: {row.health.reason}"
        told[row.name] = state
    return told, []
