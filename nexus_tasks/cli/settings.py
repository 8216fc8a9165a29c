"""`nexus-tasks config`: the settings in force, secrets masked."""

from rich.markup import escape
from rich.table import Table

from nexus_tasks.cli.output import Json, console, print_json
from nexus_tasks.config import Settings, get_settings


def config(*, json: Json = False) -> None:
    """Show every setting with its value in force and what it means; secrets are masked."""
    settings = get_settings()
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    if json:
        print_json({name: None if value is None else str(value) for name, value in values.items()})
        return
    table = Table("setting", "value", "meaning", pad_edge=False)
    for name, value in values.items():
        shown = "[dim]not set[/]" if value is None else escape(str(value))
        table.add_row(name, shown, escape(Settings.model_fields[name].description or ""))
    console.print(table)
