"""`nexus-tasks inspect`: what the readers see in a file, for people who ask why a record says what it says.

Needs neither database nor broker.
"""

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import Dataset, Fact, FileReader
from nexus_tasks.builder.readers.base import ACQUISITION_TIME
from nexus_tasks.cli.output import CommandError, Json, console, print_json, print_warnings
from nexus_tasks.cli.times import zone


def inspect(
    file: Annotated[Path, typer.Argument(help="A file as an instrument wrote it.")],
    *,
    preview: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Write the preview of the first dataset there.")
    ] = None,
    timezone: Annotated[
        str, typer.Option(help="The instrument's, for times in the file that name no zone; an IANA name.")
    ] = "UTC",
    json: Json = False,
) -> None:
    """Show what the readers see in a file: type, date, facts with units, and what is wrong with it."""
    instrument_zone = zone(timezone)
    found = _data_file(file)
    with FileReader() as reader:
        try:
            datasets = reader.read(found, zone=instrument_zone)
        except OSError as error:
            raise CommandError(f"{file} cannot be read now: {error.strerror}. Check the disk or share.") from error
        print_warnings(reader.remarks)
    written = None if preview is None else _write(datasets[0], preview)
    if json:
        print_json(_document(found, datasets))
    else:
        for dataset in datasets:
            _show(dataset)
    if preview is not None and written is None:
        print_warnings([f"There is no preview of {datasets[0].name}, so {preview} is not written."])
        raise typer.Exit(1)
    if preview is not None and not json:
        console.print(f"Preview written to {preview}", markup=False, highlight=False, soft_wrap=True)


def _data_file(path: Path) -> DataFile:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise CommandError(f"There is no file {path}: check the name.") from error
    if not path.is_file():
        kind = "a folder: name a file in it" if path.is_dir() else "no file"
        raise CommandError(f"{path} is {kind}.")
    modified = datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)
    return DataFile(path.absolute(), PurePosixPath(path.name), status.st_size, modified)


def _write(dataset: Dataset, target: Path) -> Path | None:
    if dataset.preview is None:
        return None
    try:
        target.write_bytes(dataset.preview)
    except OSError as error:
        raise CommandError(f"The preview cannot be written to {target}: {error.strerror}.") from error
    return target


def _show(dataset: Dataset) -> None:
    table = Table(
        title=escape(dataset.name),
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=False,
        pad_edge=False,
    )
    table.add_column(style="cyan", overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=3)
    table.add_row("Type", dataset.type)
    table.add_row("Format", escape(dataset.format))
    table.add_row("Reader", escape(dataset.reader))
    table.add_row("Acquired", _acquired(dataset))
    if dataset.problem:
        table.add_row("Problem", f"[red]{escape(dataset.problem)}[/]")
    table.add_row("Preview", "yes" if dataset.preview else "none")
    table.add_section()
    for fact in dataset.facts:
        table.add_row(escape(fact.name), escape(_value(fact)), style="dim" if ": " in fact.name else None)
    console.print(table)


def _acquired(dataset: Dataset) -> str:
    if dataset.acquired is None:
        return "not known"
    origin = "" if _is_in_the_file(dataset) else " [dim](the file's modification time: it names no other)[/]"
    return f"{dataset.acquired.isoformat(sep=' ', timespec='seconds')}{origin}"


def _is_in_the_file(dataset: Dataset) -> bool:
    return any(fact.name == ACQUISITION_TIME for fact in dataset.facts)


def _value(fact: Fact) -> str:
    return f"{fact.value} {fact.unit}" if fact.unit else fact.value


def _document(file: DataFile, datasets: tuple[Dataset, ...]) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "size": file.size,
        "modified": file.mtime.isoformat(),
        "datasets": [
            {
                "name": dataset.name,
                "type": dataset.type,
                "format": dataset.format,
                "reader": dataset.reader,
                "acquired": dataset.acquired and dataset.acquired.isoformat(),
                "acquired_from": "file" if _is_in_the_file(dataset) else "modification time",
                "facts": [{"name": fact.name, "value": fact.value, "unit": fact.unit} for fact in dataset.facts],
                "problem": dataset.problem,
                "preview": dataset.preview is not None,
            }
            for dataset in datasets
        ],
    }
