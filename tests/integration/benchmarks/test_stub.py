"""The services of the benchmark answer as the destinations expect: a record costs six calls, and no connection."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Activity, ExportContext, MemoryCheckpoint
from nexus_tasks.exporters.destinations.cdcs import CDCSDestination
from nexus_tasks.exporters.destinations.elabftw import ELabFTWDestination
from nexus_tasks.exporters.destinations.labarchives import LabArchivesDestination
from tests.benchmarks import six_calls
from tests.benchmarks.record import INSTRUMENT, USER, Record, records, write_previews
from tests.benchmarks.services import Services
from tests.requirements import require_module

require_module("psutil", "nexus-tasks[sandbox]")


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """The stub, named by the settings of this process."""
    for name in [name for name in os.environ if name.startswith("NX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with Services(tmp_path) as running:
        for name, value in running.settings().items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        yield running
    monkeypatch.undo()
    get_settings.cache_clear()


def context_of(record: Record, folder: Path) -> ExportContext:
    document = folder / f"{record.session}.xml"
    document.write_bytes(record.xml)
    activities = [
        Activity(tuple(folder / file for file in files), tuple(folder / preview for preview in previews))
        for files, previews in zip(record.files, record.previews, strict=True)
    ]
    return ExportContext(
        document, record.session, INSTRUMENT, record.start, record.end, user=USER, activities=activities
    )


def test_after_the_first_record_each_costs_six_calls_and_no_connection(services: Services, tmp_path: Path) -> None:
    write_previews(tmp_path)
    destinations = (CDCSDestination(), ELabFTWDestination(), LabArchivesDestination())
    shared = {destination.name: MemoryCheckpoint() for destination in destinations}
    first, *others = records(4, batch=1)

    def export(record: Record) -> None:
        context = context_of(record, tmp_path)
        for destination in destinations:
            of_this = replace(context, checkpoint=MemoryCheckpoint(), shared=shared[destination.name])
            result = destination.export(of_this)
            assert result.success, result
            context.previous_results[destination.name] = result

    export(first)
    before = services.seen()
    for record in others:
        export(record)
    seen = services.seen() - before
    assert {name: counters.calls for name, counters in seen.services.items()} == {
        name: len(calls) * len(others) for name, calls in six_calls.CALLS.items()
    }
    assert seen.connections == 0
    bytes_of_one = sum(counters.bytes_in for counters in seen.services.values()) / len(others)

    before = services.seen()
    for name, calls in six_calls.CALLS.items():
        for call in calls:
            six_calls.make(call, services.urls[name])
    of_the_bare_calls = sum(counters.bytes_in for counters in (services.seen() - before).services.values())
    assert of_the_bare_calls == pytest.approx(bytes_of_one, rel=0.1)  # the floor sends as much
