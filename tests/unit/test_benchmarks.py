"""The benchmark's own arithmetic, its record, and its page."""

from pathlib import Path

import pytest

from nexus_tasks.exporters.cdcs.schema import schema_of
from tests.benchmarks import recorded
from tests.benchmarks.figures import Collected, Figure
from tests.benchmarks.record import large_record, records, write_previews
from tests.benchmarks.stub import SCHEMA


def test_the_record_has_the_size_of_the_real_one_and_fits_the_schema(tmp_path: Path) -> None:
    first, second = records(2, batch=1)
    write_previews(tmp_path)
    assert first.session != second.session
    assert len(first.xml) == len(second.xml) == pytest.approx(33_000, rel=0.02)
    assert sum(map(len, first.files)) == 13
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.png")) == pytest.approx(117_000, rel=0.02)
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.png")} == set(sum(first.previews, ()))
    assert schema_of(SCHEMA.read_text(encoding="utf-8")).errors_in(first.xml) is None


def test_a_large_record_is_as_large_as_asked_for() -> None:
    [record] = records(1, batch=2)
    assert len(large_record(record, 1).xml) == pytest.approx(1_000_000, rel=0.1)
    many = large_record(record, 0, 500)
    assert [len(each) for each in many.previews] == [500]
    assert record.session.encode() in many.xml


def test_a_ratio_is_formed_round_by_round() -> None:
    found = Collected("part")
    for ours, other in ((2.0, 1.0), (30.0, 10.0), (8.0, 2.0)):
        found.add("cost", "ours", "ms", ours)
        found.add("cost", "other", "ms", other)
    found.ratio("cost", ("cost", "ours"), ("cost", "other"))
    found.ratio("cost", ("cost", "ours"), ("cost", "nobody"))
    ratio = found.figures()[-1]
    assert (ratio.contender, ratio.values) == ("ours / other", (2.0, 3.0, 4.0))
    assert (ratio.median, ratio.spread) == (3.0, (2.0, 4.0))


def test_recorded_figures_come_back_as_they_were() -> None:
    figure = Figure("part", "cost", "ours", "ms", (1.25, 2.0))
    assert Figure.from_json(figure.as_json()) == figure


def test_parts_that_were_measured_again_replace_the_older_ones_and_no_others() -> None:
    old = recorded.Recording({}, ()).updated(
        [Figure("a", "x", "ours", "ms", (1.0,)), Figure("b", "x", "ours", "ms", (2.0,))], {"commit": "old"}
    )
    new = old.updated([Figure("a", "y", "ours", "ms", (3.0,))], {"commit": "new"})
    assert {(figure.part, figure.name) for figure in new.figures} == {("a", "y"), ("b", "x")}
    assert {part: measured_on["commit"] for part, measured_on in new.measured_on.items()} == {"a": "new", "b": "old"}


def test_the_page_shows_what_is_recorded() -> None:
    page = recorded.PAGE.read_text(encoding="utf-8")
    shown = page.partition(recorded.START)[2].partition(recorded.END)[0]
    assert shown == f"\n{recorded.tables(recorded.read())}"
