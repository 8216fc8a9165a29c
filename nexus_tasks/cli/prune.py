"""`nexus-tasks prune`: retention, as beat does it once a day."""

from dataclasses import asdict
from typing import Annotated

import typer

from nexus_tasks.cli.output import Json, console, print_json
from nexus_tasks.delivery.prune import prune as delete_old
from nexus_tasks.entry import current_deployment


def prune(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be deleted.")] = False,
    json: Json = False,
) -> None:
    """Delete runs, and documents, that are older than NX_KEEP_RUNS_DAYS and NX_KEEP_ARCHIVED_DAYS keep them."""
    deployment = current_deployment()
    pruned = delete_old(deployment.engine, deployment.settings, dry_run=dry_run)
    if json:
        print_json({"dry_run": dry_run, **asdict(pruned)})
    else:
        console.print(f"{'Would be deleted' if dry_run else 'Deleted'}: {pruned}.")
