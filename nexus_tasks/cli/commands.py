"""The commands of `nexus-tasks`: where each one stands. Its module is imported when the command is asked for."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import typer
import typer.core
import typer.main

# name → module below `nexus_tasks.cli`, and the function or Typer group in it; `--help` shows them in this order
COMMANDS = {
    "demo": "demo:demo",
    "sandbox": "sandbox:cli",
    "db": "database:cli",
    "instruments": "instruments:cli",
    "sessions": "sessions:cli",
    "build": "build:build",
    "enqueue": "enqueue:enqueue",
    "status": "status:status",
    "log": "status:log",
    "retry": "retry:retry",
    "abandon": "retry:abandon",
    "destinations": "destinations:cli",
    "inspect": "inspect:inspect",
    "prune": "prune:prune",
    "config": "settings:config",
}


class LazyGroup(typer.core.TyperGroup):
    """A group that knows the names of `COMMANDS`, and imports one when it is called or described."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": _Commands()})


class _Commands(Mapping[str, Any]):
    """Name → command, made when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Imports make a hundred thousand objects that stay; looking for garbage among them takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _command(name: str) -> Any:
    module, _, attribute = COMMANDS[name].partition(":")
    with _no_garbage_collection():
        found = getattr(import_module(f"nexus_tasks.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command()(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command
