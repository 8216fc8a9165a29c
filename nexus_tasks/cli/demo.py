"""`nexus-tasks demo`: its options; what it does stands in `demonstration`."""

from pathlib import Path
from typing import Annotated

import typer

from nexus_tasks.cli.output import Json


def demo(
    sessions: Annotated[int, typer.Option(min=1, max=200, help="How many sessions to make up, without --data.")] = 3,
    data: Annotated[
        Path | None, typer.Option(help="A folder with one folder of microscope files per instrument.")
    ] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Where to work; what an earlier demo left is removed.")] = Path(
        ".demo"
    ),
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, Flower included.")] = False,
    real_cdcs: Annotated[
        bool,
        typer.Option(
            "--real-cdcs",
            help="A real CDCS in place of its stand-in. The first time 50 packages are downloaded into the user's "
            "cache folder, about 250 MB: 7 s with uv, half a minute with pip, on a fast line.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Build records and export them to stand-ins of CDCS, eLabFTW and LabArchives, on real workers.

    With --real-cdcs, CDCS is no stand-in.
    """
    from nexus_tasks.cli.demonstration import demonstrate  # it needs the extra `sandbox`, which an installation lacks

    demonstrate(sessions, data, folder, keep=keep, real_cdcs=real_cdcs, as_json=json)
