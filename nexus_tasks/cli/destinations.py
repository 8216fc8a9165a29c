"""`nexus-tasks destinations`: which ones there are, whether they take part, and why not."""

import typer
from rich.markup import escape
from rich.table import Table

from nexus_tasks.cli.output import Json, console, errors, print_json
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.registry import get_registry


def destinations(*, json: Json = False) -> None:
    """Show every destination with ✓ or ✗ and the reason; fails when one that is enabled is not valid."""
    get_settings()
    registry = get_registry()
    rows = [
        {
            "destination": destination.name,
            "priority": destination.priority,
            "enabled": destination.enabled,
            "valid": (checked := destination.validate_config())[0],
            "reason": checked[1],
        }
        for destination in registry.destinations
    ]
    if json:
        print_json({"destinations": rows, "problems": [str(problem) for problem in registry.problems]})
    else:
        table = Table("destination", "priority", "enabled", "settings", pad_edge=False)
        for row in rows:
            mark = "[green]✓[/]" if row["valid"] else f"[red]✗[/] {escape(str(row['reason']))}"
            table.add_row(str(row["destination"]), str(row["priority"]), "yes" if row["enabled"] else "no", mark)
        console.print(table)
        for problem in registry.problems:
            errors.print(str(problem), style="red", markup=False, soft_wrap=True)
    if registry.problems or any(row["enabled"] and not row["valid"] for row in rows):
        raise typer.Exit(1)
