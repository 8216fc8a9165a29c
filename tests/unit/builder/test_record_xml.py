"""What a record says, and what is read back from one."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from nexus_tasks.builder.readers.base import Dataset, Fact
from nexus_tasks.builder.record_xml import (
    ActivityContent,
    RecordContent,
    quoted,
    read_activities,
    unquoted,
    write_record,
)
from nexus_tasks.builder.schema import NAMESPACE, InvalidRecordError, validate
from nexus_tasks.builder.session_details import Project, Sample

NEW_YORK = ZoneInfo("America/New_York")
START = datetime(2024, 5, 1, 8, tzinfo=NEW_YORK)
END = datetime(2024, 5, 1, 9, tzinfo=NEW_YORK)
NAMES = {"n": NAMESPACE}
NIST_SCHEMA = Path(__file__).resolve().parents[4] / "shared" / "specs" / "nexus-experiment.xsd"


def dataset(name: str = "a.dm3", *facts: Fact) -> Dataset:
    return Dataset(name, PurePosixPath("TEM") / name, "DM3", "Image", START, facts, None, "basic")


def content(*datasets: Dataset) -> RecordContent:
    previews = tuple(PurePosixPath(f"{each.location}.thumb.png") for each in datasets)
    return RecordContent(
        session_identifier="https://calendar.example.org/1?a=1&b=2",
        instrument_pid="FEI-Titan-TEM-1",
        instrument_name="Titan",
        title="Experiment",
        user="Ann",
        start=START,
        end=END,
        activities=(ActivityContent(START, datasets, previews),),
    )


def texts(xml: bytes, path: str) -> list[str]:
    found = etree.fromstring(xml).xpath(path, namespaces=NAMES)
    assert isinstance(found, list)
    return [str(each) for each in found]


def test_the_summary_says_who_where_and_when_with_zones() -> None:
    xml = write_record(replace(content(dataset()), motivation="Grain size"))

    validate(xml)
    assert texts(xml, "//n:id/text()") == ["https://calendar.example.org/1?a=1&b=2"]
    assert texts(xml, "//n:experimenter/text()") == ["Ann"]
    assert texts(xml, "//n:instrument/@pid") == ["FEI-Titan-TEM-1"]
    assert texts(xml, "//n:reservationStart/text()") == ["2024-05-01T08:00:00-04:00"]
    assert texts(xml, "//n:reservationEnd/text()") == ["2024-05-01T09:00:00-04:00"]
    assert texts(xml, "//n:motivation/text()") == ["Grain size"]


def described() -> RecordContent:
    return replace(
        content(dataset()),
        motivation="Grain size\nand texture",
        experimenters=("Ann Smith", "Bob"),
        collaborators=("Cleo",),
        samples=(Sample(name="Steel A", id="S-1", description="as rolled\n\nthen annealed"), Sample(id="S-2")),
        project=Project(name="Steel", division="641", group="02", id="641.02.17"),
        notes="The stage drifts.\nAgain < yesterday",
    )


def test_what_is_said_about_a_session_stands_in_the_schemas_order() -> None:
    xml = write_record(described())

    validate(xml)
    assert texts(xml, "//n:summary/n:experimenter/text()") == ["Ann Smith", "Bob"]  # not the user
    assert texts(xml, "//n:summary/n:collaborator/text()") == ["Cleo"]
    assert texts(xml, "//n:summary/n:motivation/text()") == ["Grain size\nand texture"]
    assert texts(xml, "//n:sample/@id") == ["S-1", "S-2"]
    assert texts(xml, "//n:sample/n:name/text()") == ["Steel A"]
    assert texts(xml, "//n:sample/n:description/text()") == ["as rolled", "then annealed"]
    assert texts(xml, "//n:project/*/text()") == ["Steel", "641", "02", "641.02.17"]
    assert texts(xml, "/n:Experiment/n:notes/n:entry/n:p/text()") == ["The stage drifts.", "Again < yesterday"]
    assert write_record(described()) == xml


@pytest.mark.skipif(not NIST_SCHEMA.is_file(), reason="the NIST schema is not beside the repository")
def test_what_is_said_about_a_session_is_valid_for_the_nist_schema() -> None:
    validate(write_record(described()), NIST_SCHEMA)
    validate(write_record(replace(described(), notes=None, project=Project(id="1"))), NIST_SCHEMA)


def test_setup_holds_what_all_datasets_share_and_meta_the_rest() -> None:
    volts, near, far = Fact("Voltage", "300", "kV"), Fact("Magnification", "100"), Fact("Magnification", "200")

    xml = write_record(content(dataset("a.dm3", volts, near), dataset("b.dm3", volts, far)))

    assert texts(xml, "//n:setup/n:param/@name") == ["Voltage"]
    assert texts(xml, "//n:setup/n:param/@unit") == ["kV"]
    assert texts(xml, "//n:dataset/n:meta/text()") == ["100", "200"]


def test_a_fact_with_another_unit_is_another_fact() -> None:
    xml = write_record(content(dataset("a", Fact("Pixel", "1", "nm")), dataset("b", Fact("Pixel", "1", "µm"))))

    assert texts(xml, "//n:setup") == []
    assert len(texts(xml, "//n:meta/text()")) == 2


def test_the_size_of_a_file_is_never_a_setting_of_the_instrument() -> None:
    xml = write_record(content(dataset("a", Fact("File Size", "5", "B")), dataset("b", Fact("File Size", "5", "B"))))

    assert texts(xml, "//n:setup") == []
    assert texts(xml, "//n:meta/text()") == ["5", "5"]


def test_a_problem_stands_in_the_record() -> None:
    xml = write_record(content(replace(dataset(), type="Unknown", problem="no data")))

    validate(xml)
    assert texts(xml, "//n:description/text()") == ["Not read in full: no data"]


def test_the_same_content_gives_the_same_bytes() -> None:
    record = content(dataset("a", Fact("x", "1"), Fact("y", "2")), dataset("b", Fact("y", "2"), Fact("x", "1")))

    assert write_record(record) == write_record(record)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        write_record(replace(content(dataset()), start=datetime(2024, 5, 1)))  # noqa: DTZ001 that is the point


def test_characters_that_xml_has_not_become_replacement_characters() -> None:
    xml = write_record(content(dataset("a\x00b\x1f\udcff.dm3", Fact("Title\x0b", "\ufffe"))))

    validate(xml)
    assert texts(xml, "//n:dataset/n:name/text()") == ["a\ufffdb\ufffd\ufffd.dm3"]
    assert texts(xml, "//n:param/@name") == ["Title\ufffd"]


@given(st.text())
def test_any_text_makes_a_valid_record(text: str) -> None:
    record = replace(content(dataset("a", Fact(text, text, text))), user=text, title=text, motivation=text)

    validate(write_record(record))


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4))
def test_any_file_name_survives_the_way_through_a_record(parts: list[bytes]) -> None:
    names = [part.replace(b"/", b"_").replace(b"\0", b"_").decode("utf-8", "surrogateescape") for part in parts]
    path = PurePosixPath(*names)

    assert quoted(path).isascii()
    assert unquoted(quoted(path)) == str(path)


def test_files_and_previews_are_read_back_pairwise() -> None:
    record = content(dataset("ä #1%20.dm3"), dataset("b.dm3"))
    first = record.activities[0]
    record = replace(record, activities=(replace(first, previews=(first.previews[0], None)), first))

    activities = read_activities(write_record(record))

    assert activities == [
        {"files": ["TEM/ä #1%20.dm3", "TEM/b.dm3"], "previews": ["TEM/ä #1%20.dm3.thumb.png", None]},
        {
            "files": ["TEM/ä #1%20.dm3", "TEM/b.dm3"],
            "previews": ["TEM/ä #1%20.dm3.thumb.png", "TEM/b.dm3.thumb.png"],
        },
    ]


def test_records_of_other_builders_are_read_too() -> None:
    xml = f"""<nx:Experiment xmlns:nx="{NAMESPACE}"><nx:title> A
      title </nx:title><nx:summary/><nx:acquisitionActivity>
      <nx:dataset><nx:name>n</nx:name><nx:location>/TEM/a%20b.dm3</nx:location></nx:dataset>
      <nx:dataset><nx:name>n</nx:name><nx:location>/../etc/passwd</nx:location></nx:dataset>
      <nx:dataset><nx:name>n</nx:name><nx:location>/%2e%2e/etc/passwd</nx:location></nx:dataset>
      <nx:dataset><nx:name>n</nx:name><nx:location>https://elsewhere.example.org/a</nx:location></nx:dataset>
      </nx:acquisitionActivity></nx:Experiment>""".encode()

    assert read_activities(xml) == [{"files": ["TEM/a b.dm3"], "previews": [None]}]


def test_reading_what_is_no_xml_is_refused() -> None:
    with pytest.raises(InvalidRecordError):
        read_activities(b"{}")


def test_times_may_come_in_utc() -> None:
    assert b"2024-05-01T00:00:00+00:00" in write_record(
        replace(content(dataset()), start=datetime(2024, 5, 1, tzinfo=UTC))
    )
