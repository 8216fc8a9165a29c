"""Finds the destinations: those that ship, those in `NX_PLUGINS_PATH`, those behind the entry-point group.

A plugin that does not import, or is not a destination, is reported and stops nothing.
"""

import importlib
import importlib.util
import inspect
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from nexus_tasks.config import get_settings
from nexus_tasks.exporters import destinations as shipped
from nexus_tasks.exporters.base import ExportDestination

EXPORTERS = "nexus_tasks.exporters"
ENTRY_POINT_GROUP = "nexus_tasks.destinations"
DEFAULT_WINDOW = 16  # records on their way to one destination at once, over all workers
LONGEST_INTERVAL = 60  # seconds between two calls; a lease is taken for about as long
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PluginProblem:
    """Why a plugin takes no part."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"Plugin {self.where} takes no part: {self.reason}"


@dataclass(frozen=True)
class Registry:
    """What was found, the highest priority first."""

    destinations: tuple[ExportDestination, ...]
    problems: tuple[PluginProblem, ...] = ()

    def get(self, name: str) -> ExportDestination | None:
        """The destination of that name."""
        return next((destination for destination in self.destinations if destination.name == name), None)

    @property
    def enabled(self) -> list[ExportDestination]:
        """Those whose settings are there."""
        return [destination for destination in self.destinations if _says(destination, "enabled")]

    @property
    def half_configured(self) -> list[ExportDestination]:
        """Those that take no part although some of their settings are there: a mistake that nobody would notice."""
        return [
            destination
            for destination in self.destinations
            if _says(destination, "half_configured") and not _says(destination, "enabled")
        ]


def _says(destination: ExportDestination, what: str) -> bool:
    try:
        return bool(getattr(destination, what, False))
    except Exception as error:  # noqa: BLE001 - one plugin's mistake must not stop the others
        logger.warning("%s", PluginProblem(destination.name, f"{type(error).__name__}: {error}"))
        return False


@lru_cache(maxsize=1)
def get_registry() -> Registry:
    """The registry of this process, made once; `get_registry.cache_clear()` looks again."""
    registry = discover(get_settings().NX_PLUGINS_PATH)
    for problem in registry.problems:
        logger.warning("%s", problem)
    return registry


def import_exporters() -> None:
    """Import what the destinations that ship need for an export; without this, their first export does."""
    for module in pkgutil.iter_modules(shipped.__path__):
        importlib.import_module(f"{EXPORTERS}.{module.name}.export")


def get_enabled_destinations() -> list[ExportDestination]:
    """The destinations whose settings are there, the highest priority first."""
    return get_registry().enabled


def window_of(destination: ExportDestination, windows: Mapping[str, int] = MappingProxyType({})) -> int:
    """How many records may be on their way to it at once, over all workers; `windows` (a setting) comes first."""
    return int(windows.get(destination.name, getattr(destination, "window", DEFAULT_WINDOW)))


def interval_of(destination: ExportDestination, intervals: Mapping[str, float] = MappingProxyType({})) -> float:
    """The least seconds from one call to the next, over all workers; `intervals` (a setting) comes first."""
    return float(intervals.get(destination.name, getattr(destination, "interval", 0)))


def discover(plugin_folders: Sequence[Path]) -> Registry:
    """Import every place where a destination can be; what goes wrong becomes a problem, not an exception."""
    found: dict[str, ExportDestination] = {}
    problems: list[PluginProblem] = []
    for source in _sources(plugin_folders):
        try:
            for destination in _destinations_in(source.load()):
                _refuse_unfit(destination, found)
                found[destination.name] = destination
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin does, the others go on
            reason = str(error) if isinstance(error, _UnfitError) else f"{type(error).__name__}: {error}"
            problems.append(PluginProblem(source.where, reason.splitlines()[0]))
    ranked = sorted(found.values(), key=lambda destination: (-destination.priority, destination.name))
    return Registry(tuple(ranked), tuple(problems))


class _UnfitError(Exception):
    """Something that was found is no destination."""


@dataclass(frozen=True)
class _Source:
    """One place where destinations can be."""

    where: str
    module: str | None = None
    file: Path | None = None
    reference: str | None = None  # of an entry point: module:attribute
    unreadable: str | None = None  # why it cannot be looked at

    def load(self) -> ModuleType | type:
        if self.unreadable is not None:
            raise _UnfitError(f"NX_PLUGINS_PATH names it, and it cannot be read ({self.unreadable})")
        if self.file is not None:
            if not self.file.is_file():
                raise FileNotFoundError(f"there is no such folder or file (NX_PLUGINS_PATH names {self.file})")
            return _import_file(self.file)
        module, _, attribute = (self.module or self.reference or "").partition(":")
        loaded = importlib.import_module(module)
        return getattr(loaded, attribute) if attribute else loaded


def _sources(plugin_folders: Iterable[Path]) -> Iterator[_Source]:
    for module in pkgutil.iter_modules(shipped.__path__, f"{shipped.__name__}."):
        yield _Source(module.name, module=module.name)
    for folder in plugin_folders:
        yield from _sources_in(folder)
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        yield _Source(f"{entry.name} = {entry.value}", reference=entry.value)


def _sources_in(folder: Path) -> Iterator[_Source]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        yield _Source(str(folder), file=folder)
    except OSError as error:
        yield _Source(str(folder), unreadable=error.strerror)
    else:
        for name in names:
            if name.endswith(".py") and not name.startswith("_"):
                yield _Source(str(folder / name), file=folder / name)


def _import_file(file: Path) -> ModuleType:
    name = f"nexus_tasks_plugins.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _destinations_in(loaded: ModuleType | type) -> list[Any]:
    """Instances of what looks like a destination: one class, or the classes that a module defines."""
    if isinstance(loaded, type):
        return [loaded()]
    kinds = [
        kind
        for _, kind in sorted(inspect.getmembers(loaded, inspect.isclass))
        if kind.__module__ == loaded.__name__ and all(hasattr(kind, part) for part in ("name", "priority", "export"))
    ]
    if not kinds:
        raise _UnfitError("it defines no class with name, priority and export()")
    return [kind() for kind in kinds]


def _refuse_unfit(destination: Any, found: Collection[str]) -> None:
    if not isinstance(destination, ExportDestination):
        raise _UnfitError("it lacks one of name, priority, enabled, validate_config, export")
    if not NAME.fullmatch(destination.name):
        raise _UnfitError(f"its name {destination.name!r} must be lower-case letters, digits, '_' or '-'")
    priority: Any = destination.priority
    if not isinstance(priority, int) or not 0 <= priority <= 1000:
        raise _UnfitError("its priority must be a whole number from 0 to 1000")
    if destination.name in found:
        raise _UnfitError(f"there is a destination named {destination.name!r} already")
    if window_of(destination) < 1:
        raise _UnfitError("its window must be at least 1")
    if not 0 <= interval_of(destination) <= LONGEST_INTERVAL:
        raise _UnfitError(f"its interval must be from 0 to {LONGEST_INTERVAL} seconds")
