from dataclasses import dataclass

import pytest

from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.delivery.snapshot import DependencyCycleError, snapshot_of
from nexus_tasks.exporters.base import ExportContext, ExportDestination, ExportResult
from nexus_tasks.exporters.registry import discover


@dataclass
class Plain:
    """A plugin that declares nothing optional."""

    name: str
    priority: int
    enabled: bool = True

    def validate_config(self) -> tuple[bool, str | None]:
        return True, None

    def export(self, context: ExportContext) -> ExportResult:
        raise NotImplementedError


@dataclass
class Declaring(Plain):
    depends_on: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()


def snapshot(*destinations: ExportDestination) -> dict[str, DestinationSnapshot]:
    return {item.name: item for item in snapshot_of(destinations)}


def test_nothing_enabled_is_an_empty_snapshot() -> None:
    assert snapshot_of([]) == []


def test_the_shipped_notebooks_depend_on_cdcs_and_not_on_each_other_and_the_archive_on_all() -> None:
    items = snapshot(*discover([]).destinations)
    assert items == {
        "cdcs": DestinationSnapshot("cdcs", 100, (), (), updates=True),
        "labarchives": DestinationSnapshot("labarchives", 90, ("cdcs",), (), updates=True),
        "elabftw": DestinationSnapshot("elabftw", 85, ("cdcs",), (), updates=True),
        "archive": DestinationSnapshot("archive", 10, ("cdcs", "elabftw", "labarchives"), (), updates=True),
    }


def test_a_plugin_that_declares_nothing_depends_on_all_of_higher_priority() -> None:
    items = snapshot(Plain("first", 100), Plain("second", 50), Plain("equal", 50), Plain("third", 10))
    assert items["first"].depends_on == ()
    assert items["second"].depends_on == ("first",)
    assert items["equal"].depends_on == ("first",)
    assert items["third"].depends_on == ("first", "second", "equal")


def test_a_plugin_that_declares_an_empty_tuple_depends_on_nothing() -> None:
    assert snapshot(Plain("first", 100), Declaring("second", 50))["second"].depends_on == ()


def test_a_dependency_that_is_not_enabled_is_dropped() -> None:
    [item] = snapshot_of([Declaring("elabftw", 85, depends_on=("cdcs",))])
    assert item.depends_on == ()


def test_a_requirement_that_is_not_enabled_is_kept_so_that_the_delivery_is_skipped() -> None:
    [item] = snapshot_of([Declaring("mirror", 85, requires=("cdcs",))])
    assert item.requires == ("cdcs",)


def test_what_is_required_is_not_named_twice() -> None:
    mirror = Declaring("mirror", 85, depends_on=("cdcs", "elabftw"), requires=("cdcs",))
    item = snapshot(Plain("cdcs", 100), Plain("elabftw", 90), mirror)["mirror"]
    assert (item.depends_on, item.requires) == (("elabftw",), ("cdcs",))


def test_a_dependency_of_lower_priority_is_kept() -> None:
    assert snapshot(Declaring("top", 99, depends_on=("last",)), Declaring("last", 1))["top"].depends_on == ("last",)


@pytest.mark.parametrize(
    ("destinations", "named"),
    [
        ([Declaring("a", 1, depends_on=("b",)), Declaring("b", 2, depends_on=("a",))], "a, b"),
        ([Declaring("a", 1, requires=("b",)), Declaring("b", 2, depends_on=("a",))], "a, b"),
        ([Declaring("a", 1, depends_on=("a",))], "a"),
        (
            [
                Declaring("free", 9),
                Declaring("a", 1, depends_on=("c", "free")),
                Declaring("b", 2, depends_on=("a",)),
                Declaring("c", 3, requires=("b",)),
            ],
            "a, b, c",
        ),
    ],
)
def test_a_circle_is_refused_with_those_in_it(destinations: list[ExportDestination], named: str) -> None:
    with pytest.raises(DependencyCycleError, match=rf"^The destinations {named} depend on each other in a circle"):
        snapshot_of(destinations)


def test_a_circle_through_a_destination_that_is_not_enabled_is_none() -> None:
    assert snapshot_of([Declaring("a", 1, depends_on=("b",))])
