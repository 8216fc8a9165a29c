"""Turns the enabled destinations into what is written down with a record: pure, called at enqueue."""

from collections.abc import Iterable, Sequence

from nexus_tasks.db.deliveries import FrozenDestination
from nexus_tasks.exporters.base import ExportDestination
from nexus_tasks.plain_error import PlainError


class DependencyCycleError(PlainError):
    """Destinations depend on each other in a circle, so none of them could go first."""


def freeze(destinations: Sequence[ExportDestination]) -> list[FrozenDestination]:
    """The destinations with their dependencies, as this record will know them for ever.

    `depends_on` is kept as far as it names destinations that are frozen too; a plugin that declares nothing depends on
    all of higher priority. Raises `DependencyCycleError`.
    """
    names = {destination.name for destination in destinations}
    frozen = []
    for destination in destinations:
        declared = getattr(destination, "depends_on", None)
        if declared is None:
            declared = [other.name for other in destinations if other.priority > destination.priority]
        requires = _names(getattr(destination, "requires", ()))
        frozen.append(
            FrozenDestination(
                name=destination.name,
                priority=destination.priority,
                depends_on=tuple(name for name in _names(declared) if name in names and name not in requires),
                requires=requires,
                updates=bool(getattr(destination, "updates", False)),
            )
        )
    _refuse_cycles(frozen)
    return frozen


def _names(declared: str | Iterable[str]) -> tuple[str, ...]:
    """One name by itself means a tuple of one: ("cdcs") is no tuple in Python."""
    return (declared,) if isinstance(declared, str) else tuple(declared)


def _refuse_cycles(frozen: Sequence[FrozenDestination]) -> None:
    waiting = {item.name: {*item.depends_on, *item.requires} for item in frozen}
    while waiting:
        free = [name for name, others in waiting.items() if not others & waiting.keys()]
        if not free:
            raise DependencyCycleError(
                f"The destinations {', '.join(sorted(waiting))} depend on each other in a circle: change depends_on."
            )
        for name in free:
            del waiting[name]
