"""`nexus-tasks destinations`: which ones there are and how they are; check, stop, start and backfill one."""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from nexus_tasks.cli.output import Json, console, errors, print_json, print_warnings
from nexus_tasks.db.engine import DatabaseError
from nexus_tasks.delivery import admin
from nexus_tasks.delivery.rate_limit import RateLimit
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import current_deployment
from nexus_tasks.exporters.base import ExportDestination
from nexus_tasks.exporters.checkup import Finding, check_settings, check_up
from nexus_tasks.exporters.http import before_each_call
from nexus_tasks.monitoring.wellbeing import unwell, wellbeing

cli = typer.Typer(invoke_without_command=True, help="Show the destinations; check, stop, start or backfill one.")

MARKS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]–[/]"}


@cli.callback()
def show(
    context: typer.Context,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Ask each enabled destination whether it would take a record.")
    ] = False,
    json: Json = False,
) -> None:
    """Show every destination with ✓ or ✗ and the reason; fails when one that has settings is not as it should be."""
    if context.invoked_subcommand is not None:
        return
    deployment = current_deployment()
    health, database_problem = _health(deployment)
    enabled = {destination.name for destination in deployment.registry.enabled}
    half_configured = {destination.name for destination in deployment.registry.half_configured}
    found = [
        _document(destination, enabled, half_configured, health) for destination in deployment.registry.destinations
    ]
    findings = dict(_findings(deployment, paced=not database_problem)) if check else {}
    problems = [str(problem) for problem in deployment.registry.problems]
    if json:
        for row in found:
            if check:
                row["checks"] = [vars(finding) for finding in findings.get(row["destination"], [])]
        print_json({"destinations": found, "problems": problems})
    else:
        console.print(_checks_table(findings) if check else _table(found))
        if check and not findings:
            console.print("No destination is enabled: `nexus-tasks destinations` says what each one needs.")
        for problem in [*problems, *database_problem]:
            errors.print(problem, style="red", markup=False, soft_wrap=True)
    failed = any(finding.ok is False for each in findings.values() for finding in each)
    if problems or failed or any((row["enabled"] or row["half_configured"]) and not row["valid"] for row in found):
        raise typer.Exit(1)


@cli.command()
def pause(destination: str) -> None:
    """Give a destination nothing until it is resumed."""
    admin.pause(current_deployment(), destination)
    console.print(f"{escape(destination)} is paused until `nexus-tasks destinations resume {escape(destination)}`.")


@cli.command()
def resume(destination: str) -> None:
    """Have a paused destination get what is due."""
    admin.resume(current_deployment(), destination)
    console.print(f"{escape(destination)} gets what is due.")


@cli.command()
def backfill(destination: str) -> None:
    """Send the older records to a destination that is new."""
    deployment = current_deployment()
    count = admin.backfill(deployment, destination)
    console.print(f"{count} records go to {escape(destination)}.")
    if count:
        print_warnings(unwell(deployment))


def _document(
    destination: ExportDestination, enabled: Container[str], half_configured: Container[str], health: Mapping[str, str]
) -> dict[str, Any]:
    valid, reason = check_settings(destination)
    return {
        "destination": destination.name,
        "priority": destination.priority,
        "enabled": destination.name in enabled,
        "half_configured": destination.name in half_configured,
        "valid": valid,
        "reason": reason,
        "health": health.get(destination.name, ""),
    }


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table("destination", "priority", "enabled", "settings", "health", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in found:
        mark = MARKS[True] if row["valid"] else f"{MARKS[False]} {escape(str(row['reason']))}"
        enabled = "yes" if row["enabled"] else "incomplete" if row["half_configured"] else "no"
        table.add_row(row["destination"], str(row["priority"]), enabled, mark, escape(row["health"]))
    return table


def _findings(deployment: Deployment, *, paced: bool) -> Iterator[tuple[str, list[Finding]]]:
    """What each destination says that is to take part; without a database there is no rate limit."""
    for destination in [*deployment.registry.half_configured, *deployment.registry.enabled]:
        with _pace(deployment, destination) if paced else nullcontext():
            yield destination.name, list(check_up(destination))


@contextmanager
def _pace(deployment: Deployment, destination: ExportDestination) -> Iterator[None]:
    """The calls of a check keep the destination's interval, beside those of the workers."""
    rate_limit = RateLimit.of(deployment.engine, destination, deployment.settings)
    try:
        with before_each_call(rate_limit.wait_patiently):
            yield
    finally:
        rate_limit.release()


def _checks_table(findings: Mapping[str, list[Finding]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("destination", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("what was found, or what to do", overflow="fold")
    for name, found in findings.items():
        for position, finding in enumerate(found):
            shown = name if position == 0 else ""
            table.add_row(shown, escape(finding.name), MARKS[finding.ok], escape(finding.message))
        table.add_section()
    return table


def _health(deployment: Deployment) -> tuple[dict[str, str], list[str]]:
    """How each destination is, as far as the database can tell."""
    try:
        return wellbeing(deployment.engine), []
    except DatabaseError as error:
        return {}, [str(error)]
