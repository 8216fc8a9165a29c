from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from lxml import etree

from nexus_tasks.exporters.base import Activity, ExportContext, ExportResult, TransientError
from nexus_tasks.exporters.html_summary import (
    cdcs_link,
    escape,
    identifying_text,
    moment,
    render_note,
    render_summary,
    whole_document,
)
from nexus_tasks.exporters.written_text import visible, without_white_space

PLENTY = 1_000_000


def html_of(context: ExportContext, *, max_bytes: int, gallery: bool = False, files_root: Path | None = None) -> str:
    return render_summary(context, max_bytes=max_bytes, gallery=gallery, files_root=files_root).html


@pytest.fixture
def linked(context: ExportContext) -> ExportContext:
    result = ExportResult(success=True, destination_name="cdcs", record_url="https://cdcs.example.com/data?a=1&id=123")
    return replace(context, previous_results={"cdcs": result}, activities=[])


def pictures(folder: Path, *sizes: int) -> list[Activity]:
    previews = []
    for number, size in enumerate(sizes):
        previews.append(folder / f"p{number}.png")
        previews[-1].write_bytes(b"x" * size)
    return [Activity(tuple(Path(f"f{number}.dm3") for number in range(len(sizes))), tuple(previews))]


def test_the_summary_reads_as_nexuslims_shows_it(linked: ExportContext) -> None:
    assert html_of(linked, max_bytes=PLENTY) == (
        "<h1>NexusLIMS Microscopy Session</h1>\n"
        "\n"
        "<h2>Session Details</h2>\n"
        "<ul>\n"
        "  <li><strong>Session ID</strong>: 2025-01-27_10-30-15_abc123</li>\n"
        "  <li><strong>Instrument</strong>: FEI-Titan-TEM-012345</li>\n"
        "  <li><strong>User</strong>: jsmith</li>\n"
        "  <li><strong>Start</strong>: 2025-01-27T10:30:15-05:00</li>\n"
        "  <li><strong>End</strong>: 2025-01-27T14:45:00-05:00</li>\n"
        "</ul>\n"
        "\n"
        "<h2>Related Records</h2>\n"
        "<ul>\n"
        '  <li><a href="https://cdcs.example.com/data?a=1&amp;id=123">View in CDCS</a></li>\n'
        "</ul>\n"
    )


def test_without_a_cdcs_record_there_is_no_link(linked: ExportContext) -> None:
    for result in (
        ExportResult(success=False, destination_name="cdcs", record_url="https://cdcs.example.com"),
        ExportResult(success=True, destination_name="cdcs", record_url="javascript:alert(1)"),
        ExportResult(success=True, destination_name="cdcs", record_url="http://[broken"),
        ExportResult(success=True, destination_name="cdcs"),
    ):
        context = replace(linked, previous_results={"cdcs": result})
        assert cdcs_link(context) is None
        assert "Related Records" not in html_of(context, max_bytes=PLENTY)


def test_what_comes_from_a_lab_is_escaped(context: ExportContext) -> None:
    evil = "<script>alert('\"')</script>"
    summary = html_of(
        replace(
            context,
            session_identifier=evil,
            instrument_pid=evil,
            user=evil,
            activities=[Activity((Path("<script>x"),), (None,))],
        ),
        max_bytes=PLENTY,
    )
    assert "<script" not in summary
    assert summary.count("&lt;script&gt;alert(&#x27;&quot;&#x27;)&lt;/script&gt;") == 3


def test_files_are_listed_by_activity_below_their_root(context: ExportContext) -> None:
    summary = html_of(context, max_bytes=PLENTY, files_root=Path("/data"))
    assert "<h3>Activity 1 (2 files)</h3>" in summary
    assert "<li>Titan/a.dm3</li>" in summary
    assert "<li>a.dm3</li>" in html_of(context, max_bytes=PLENTY, files_root=Path("/other"))


def test_a_long_list_of_files_is_cut_with_a_word(context: ExportContext) -> None:
    many = [Activity(tuple(Path(f"{number}.dm3") for number in range(1000)), (None,) * 1000)] * 2
    summary = html_of(replace(context, activities=many), max_bytes=10_000)
    assert len(summary.encode()) <= 10_000
    listed = summary.count(".dm3</li>")
    assert f"<p>{2000 - listed} more files not listed here" in summary


def test_the_largest_previews_that_fit_are_shown_in_their_order(context: ExportContext, tmp_path: Path) -> None:
    activities = pictures(tmp_path, 3000, 90_000, 6000, 5000)
    summary = html_of(replace(context, activities=activities), max_bytes=18_000, gallery=True)
    assert [f"f{number}.dm3" for number in range(4) if f'alt="f{number}.dm3"' in summary] == ["f2.dm3", "f3.dm3"]
    assert "<p>2 previews left out" in summary
    summary = html_of(replace(context, activities=activities), max_bytes=200_000, gallery=True)
    assert summary.count("<img ") == 4
    assert summary.index('alt="f0') < summary.index('alt="f1') < summary.index('alt="f2')
    assert "left out" not in summary


@pytest.mark.parametrize("budget", [0, 2000, 5000, 10_000, 20_000, 50_000])
def test_a_page_stays_within_its_size(context: ExportContext, tmp_path: Path, budget: int) -> None:
    wide = replace(context, activities=pictures(tmp_path, *range(500, 6000, 500)))
    summary = html_of(wide, max_bytes=budget, gallery=True)
    assert len(summary.encode()) <= max(budget, 1000)


def test_previews_that_cannot_be_shown_are_counted(context: ExportContext, tmp_path: Path) -> None:
    tif, gone = tmp_path / "a.tif", tmp_path / "gone.png"
    tif.write_bytes(b"x")
    activities = [Activity((Path("a"), Path("b"), Path("c")), (tif, gone, None))]
    summary = html_of(replace(context, activities=activities), max_bytes=PLENTY, gallery=True)
    assert "<p>2 previews left out" in summary


def test_a_preview_that_cannot_be_read_now_is_not_left_out_for_ever(context: ExportContext, tmp_path: Path) -> None:
    in_a_circle, folder = tmp_path / "circle.png", tmp_path / "folder.png"
    in_a_circle.symlink_to(in_a_circle)
    folder.mkdir()
    for preview in (in_a_circle, folder):  # errors on looking, and on reading
        broken = replace(context, activities=[Activity((Path("a"),), (preview,))])
        with pytest.raises(TransientError, match=rf"^The preview .*{preview.name} cannot be read \("):
            html_of(broken, max_bytes=PLENTY, gallery=True)
        assert "Previews" not in html_of(broken, max_bytes=PLENTY)


def test_a_whole_document_is_well_formed(context: ExportContext, tmp_path: Path) -> None:
    wide = replace(context, activities=pictures(tmp_path, 10))
    document = whole_document(html_of(wide, max_bytes=PLENTY, gallery=True), "a < b")
    tree = etree.fromstring(document.encode(), etree.HTMLParser())
    assert tree.findtext("head/title") == "a < b"
    assert len(tree.findall(".//img")) == 1


@pytest.mark.parametrize(
    ("when", "shown"),
    [
        (datetime(2025, 7, 1, 9, tzinfo=ZoneInfo("America/New_York")), "2025-07-01T09:00:00-04:00 (America/New_York)"),
        (datetime(2025, 1, 1, 9, tzinfo=ZoneInfo("America/New_York")), "2025-01-01T09:00:00-05:00 (America/New_York)"),
        (datetime(2025, 1, 1, 9, 0, 0, 999, tzinfo=timezone(timedelta(hours=5.5))), "2025-01-01T09:00:00+05:30"),
        (datetime(2025, 1, 1, 9, tzinfo=UTC), "2025-01-01T09:00:00+00:00"),
    ],
)
def test_a_time_is_shown_in_its_own_zone(when: datetime, shown: str) -> None:
    assert moment(when) == shown


def test_characters_that_html_cannot_hold_are_replaced() -> None:
    assert escape("a\x00b\x1b\x85\ud800\ufffe\t\n<") == "a�b����\t\n&lt;"


def test_a_preview_of_a_file_whose_name_is_no_text_is_shown(context: ExportContext, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"x")
    odd = replace(context, activities=[Activity((Path("gr\udcfc.dm3"),), (tmp_path / "p.png",))])
    summary = html_of(odd, max_bytes=PLENTY, gallery=True)
    assert 'alt="gr�.dm3"' in summary
    assert "<li>gr�.dm3</li>" in summary


# --- any text

ELEMENTS = {"div", "h1", "h2", "h3", "ul", "li", "strong", "a", "p"}
any_text = st.one_of(
    st.text(st.characters(), max_size=80),  # half pairs too
    st.sampled_from(
        ["<script>x</script>", '" onload="x', "' --> <!-- ]]>", "&lt;&amp;amp;&#60;", "</li></ul><h1>", "<x>"]
    ),
    st.text(alphabet="<>&\"'/=! ab", max_size=40),
)


def readable(text: str) -> str:
    controls = {*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF}
    return without_white_space("".join("�" if ord(each) in controls else each for each in text))


@examples(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    session=any_text,
    instrument=any_text,
    user=st.none() | any_text,
    files=st.lists(any_text, max_size=3),
    link=any_text,
)
@example(session="a", instrument="b", user="c", files=["f" * 10_000], link="x" * 10_000)
def test_any_text_is_shown_as_text(
    context: ExportContext, tmp_path: Path, session: str, instrument: str, user: str | None, files: list[str], link: str
) -> None:
    paths = tuple(Path(name) for name in files)
    result = ExportResult(success=True, destination_name="cdcs", record_url=f"https://cdcs.example.org/{link}")
    record = replace(
        context,
        session_identifier=session,
        instrument_pid=instrument,
        user=user,
        activities=[Activity(paths, (None,) * len(paths))],
        previous_results={"cdcs": result},
    )
    previews = [
        *pictures(tmp_path, 5, 9),
        Activity((Path(session[:50].replace("\0", "") or "x"),), (tmp_path / "p0.png",)),
    ]
    for gallery in (False, True):
        summary = render_summary(
            replace(record, activities=[*record.activities, *previews]), max_bytes=PLENTY, gallery=gallery
        )
        assert summary.visible == visible(summary.html)
        assert len(summary.visible.embedded) == (3 if gallery else 0)
    for page, texts in (
        (html_of(record, max_bytes=PLENTY), [session, instrument, user or "", *(path.name for path in paths)]),
        (render_note(record, "0" * 64), [f"https://cdcs.example.org/{link}"]),
    ):
        tree = etree.fromstring(f"<div>{page}</div>")  # as strict as XML
        assert {each.tag for each in tree.iter()} <= ELEMENTS
        assert all(each.tag == "a" and list(each.attrib) == ["href"] for each in tree.iter() if each.attrib)
        shown = visible(page).text
        for text in texts:
            assert readable(text) in shown
    assert readable(identifying_text(record)) in visible(html_of(record, max_bytes=PLENTY)).text
    document = etree.fromstring(whole_document(page, session).encode(), etree.HTMLParser())
    assert readable(str(document.findtext("head/title") or "")) == readable(session)
