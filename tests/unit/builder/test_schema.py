"""What counts as a record."""

from pathlib import Path

import pytest

from nexus_tasks.builder.schema import NAMESPACE, InvalidRecordError, parse_record, validate

SHARED = Path(__file__).resolve().parents[4] / "shared"
NIST = SHARED / "specs" / "nexus-experiment.xsd"


def experiment(inside: str) -> bytes:
    return f'<?xml version="1.0"?>\n<Experiment xmlns="{NAMESPACE}">\n{inside}\n</Experiment>'.encode()


EVERYTHING = f"""
<title>t</title><id>i</id>
<summary ref="https://calendar.example.org/1"><experimenter>a</experimenter><collaborator>b</collaborator>
  <instrument pid="p" ref="https://x.example.org">TEM</instrument>
  <reservationStart>2024-05-01T12:00:00+02:00</reservationStart><reservationEnd>2024-05-01T13:00:00Z</reservationEnd>
  <motivation>why</motivation></summary>
<sample id="s1" ref="r"><name>n</name><description>d</description><notes/><elements><Fe/><Cr/></elements></sample>
<project><name>n</name><division>d</division><group>g</group><project_id>1</project_id><ref>https://p</ref></project>
<acquisitionActivity seqno="0"><startTime>2024-05-01T12:00:00Z</startTime><sampleID>s1</sampleID>
  <setup><param name="Voltage" unit="kV" warning="true">300</param></setup>
  <notes source="ELN"><entry xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xmlns:nx="{NAMESPACE}" xsi:type="nx:TextEntry"><p>text</p></entry></notes>
  <dataset type="Image" role="Experimental"><name>n</name><location>l</location><format>f</format>
    <description>d</description><preview>p</preview><meta name="x">1</meta>
    <curation><rating>3</rating><featured>true</featured></curation></dataset>
  <dataset type="Notes" role="Derived"><name>n</name><location>l</location></dataset></acquisitionActivity>
<notes/>
"""


@pytest.mark.parametrize("inside", ["<summary/>", EVERYTHING])
def test_every_structure_of_a_nexuslims_record_is_accepted(inside: str) -> None:
    validate(experiment(inside))


@pytest.mark.skipif(not NIST.exists(), reason="the NIST schema is not beside the repository")
def test_the_record_with_everything_in_it_is_one_for_the_nist_schema_too() -> None:
    validate(experiment(EVERYTHING), NIST)


@pytest.mark.parametrize(
    ("inside", "word"),
    [
        ("<title>t</title>", "summary"),
        ("<summary/><title>t</title>", "title"),
        ("<summary><reservationStart>yesterday</reservationStart></summary>", "dateTime"),
        (
            '<summary/><acquisitionActivity><dataset type="Photo"><name/><location/></dataset></acquisitionActivity>',
            "Photo",
        ),
        ("<summary/><acquisitionActivity><dataset><name/></dataset></acquisitionActivity>", "location"),
    ],
)
def test_a_wrong_record_is_refused_in_one_line_with_number_and_reason(inside: str, word: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        validate(experiment(inside))

    assert "\n" not in str(caught.value)
    assert "line " in str(caught.value)
    assert word in str(caught.value)
    assert NAMESPACE not in str(caught.value)


def test_a_doctype_is_refused_and_no_file_gets_in_through_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hush")
    xml = f'<!DOCTYPE x [<!ENTITY s SYSTEM "{secret.as_uri()}">]>\n<x>&s;</x>'.encode()

    with pytest.raises(InvalidRecordError, match="DOCTYPE"):
        parse_record(xml)


@pytest.mark.parametrize("xml", [b"", b"<a>", b"\xff\xfe", b"not xml"])
def test_what_is_not_xml_is_refused_in_one_line(xml: bytes) -> None:
    with pytest.raises(InvalidRecordError, match=r"line \d+: .+\.$"):
        validate(xml)
