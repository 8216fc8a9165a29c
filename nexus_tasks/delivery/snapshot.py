"""Turns the enabled destinations into the snapshot that is stored with a record: pure."""

from collections.abc import Iterable, Sequence

from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.exporters.base import ExportDestination
from nexus_tasks.plain_error import PlainError


class DependencyCycleError(PlainError):
    """Destinations depend on each other in a circle, so none of them could go first."""


def snapshot_of(destinations: Sequence[ExportDestination]) -> list[DestinationSnapshot]:
    """The destinations with their dependencies, as a record handed over now will always know them.

    `depends_on` is kept as far as it names destinations of the snapshot; a plugin that declares nothing depends on
    all of higher priority. Raises `DependencyCycleError`.
    """
    names = {destination.name for destination in destinations}
    snapshot = []
    for destination in destinations:
        declared = getattr(destination, "depends_on", None)
        if declared is None:
            declared = [other.name for other in destinations if other.priority > destination.priority]
        requires = _names(getattr(destination, "requires", ()))
        snapshot.append(
            DestinationSnapshot(
                name=destination.name,
                priority=destination.priority,
                depends_on=tuple(name for name in _names(declared) if name in names and name not in requires),
                requires=requires,
                updates=bool(getattr(destination, "updates", False)),
            )
        )
    _refuse_cycles(snapshot)
    return snapshot


def _names(declared: str | Iterable[str]) -> tuple[str, ...]:
    """One name by itself means a tuple of one: ("cdcs") is no tuple in Python."""
    return (declared,) if isinstance(declared, str) else tuple(declared)


def _refuse_cycles(snapshot: Sequence[DestinationSnapshot]) -> None:
    waiting = {item.name: {*item.depends_on, *item.requires} for item in snapshot}
    while waiting:
        free = [name for name, others in waiting.items() if not others & waiting.keys()]
        if not free:
            raise DependencyCycleError(
                f"The destinations {', '.join(sorted(waiting))} depend on each other in a circle: change depends_on."
            )
        for name in free:
            del waiting[name]
