"""Which picture of a record that was built elsewhere shows which file, and how it gets to the previews."""

import logging
import os
from pathlib import Path

import pytest

from nexus_tasks.builder.foreign_previews import PreviewError, with_previews
from nexus_tasks.builder.record_xml import ActivityPaths

SESSION = "session"
LONG_AGO = 1_000_000_000  # seconds


def picture(path: Path, shows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(shows, encoding="utf-8")
    return path


def named(*previews: str | None) -> list[ActivityPaths]:
    """One activity of a record that names these previews."""
    return [{"files": [f"file {number}" for number in range(len(previews))], "previews": list(previews)}]


def shown(activities: list[ActivityPaths], root: Path) -> list[tuple[str, str | None]]:
    """Each file, and what its preview shows."""
    return [
        (file, (root / preview).read_text(encoding="utf-8") if preview else None)
        for activity in activities
        for file, preview in zip(activity["files"], activity["previews"], strict=True)
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "previews"


def test_a_picture_shows_the_file_whose_preview_has_its_name(tmp_path: Path, root: Path) -> None:
    handed_over = [picture(tmp_path / "somewhere" / "b.png", "b")]

    activities = with_previews(named("SEM/a.png", "SEM/b.png", None), handed_over, root, SESSION)

    assert shown(activities, root) == [("file 0", None), ("file 1", "b"), ("file 2", None)]


def test_pictures_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path, root: Path) -> None:
    handed_over = [picture(tmp_path / "kept" / day / "image_001.png", day) for day in ("day2", "day1")]

    activities = with_previews(named("SEM/day1/image_001.png", "SEM/day2/image_001.png"), handed_over, root, SESSION)

    assert shown(activities, root) == [("file 0", "day1"), ("file 1", "day2")]


def test_a_relative_path_counts_with_the_folder_that_it_starts_from(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "SEM" / "day2" / "image_001.png", "day2")
    monkeypatch.chdir(tmp_path / "SEM" / "day2")

    activities = with_previews(
        named("SEM/day1/image_001.png", "SEM/day2/image_001.png"), [Path("image_001.png")], root, SESSION
    )

    assert shown(activities, root) == [("file 0", None), ("file 1", "day2")]


def test_one_preview_of_several_files_is_shown_with_each(tmp_path: Path, root: Path) -> None:
    handed_over = [picture(tmp_path / "SEM" / "a.png", "a")] * 2

    activities = with_previews(named("SEM/a.png", "SEM/a.png"), handed_over, root, SESSION)

    assert shown(activities, root) == [("file 0", "a"), ("file 1", "a")]


@pytest.mark.parametrize(
    ("previews", "paths", "own_names"),
    [
        (["SEM/day1/a.png", "SEM/day2/a.png"], ["elsewhere/a.png"], ["a.png"]),  # either of two
        (["SEM/a.png"], ["one/a.png", "another/a.png"], ["one/a.png", "another/a.png"]),  # as well as the other one
    ],
)
def test_a_picture_of_which_it_cannot_be_told_what_it_shows_stands_by_itself_and_is_logged(
    previews: list[str],
    paths: list[str],
    own_names: list[str],
    tmp_path: Path,
    root: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handed_over = [picture(tmp_path / path, path) for path in paths]

    with caplog.at_level(logging.WARNING):
        of_the_record, by_themselves = with_previews(named(*previews), handed_over, root, SESSION)

    assert {what for _, what in shown([of_the_record], root)} == {None}
    assert shown([by_themselves], root) == list(zip(own_names, paths, strict=True))
    for path in handed_over:
        assert str(path) in caplog.text


def test_a_picture_that_stands_by_itself_takes_no_other_s_place(tmp_path: Path, root: Path) -> None:
    handed_over = [picture(tmp_path / path, path) for path in ("elsewhere/a.png", "SEM/a.png")]

    activities = with_previews(named("SEM/a.png"), handed_over, root, SESSION)

    assert shown(activities, root) == [("file 0", "SEM/a.png"), ("elsewhere/a.png", "elsewhere/a.png")]


def test_pictures_that_the_record_does_not_name_have_an_activity_of_their_own(tmp_path: Path, root: Path) -> None:
    paths = ("day1/map.png", "day2/map.png", "day2/note.png")
    handed_over = [picture(tmp_path / path, path) for path in paths]

    activities = with_previews(named("SEM/a.png"), handed_over, root, SESSION)

    assert shown(activities[1:], root) == [
        ("day1/map.png", "day1/map.png"),
        ("day2/map.png", "day2/map.png"),
        ("note.png", "day2/note.png"),
    ]


def test_a_picture_that_is_handed_over_again_is_left_as_it_is(tmp_path: Path, root: Path) -> None:
    handed_over = [picture(tmp_path / "a.png", "a")]
    [first] = with_previews(named("SEM/a.png"), handed_over, root, SESSION)
    os.utime(root / first["previews"][0], (LONG_AGO, LONG_AGO))

    [second] = with_previews(named("SEM/a.png"), handed_over, root, SESSION)

    assert second == first
    assert (root / second["previews"][0]).stat().st_mtime == LONG_AGO


def test_who_reads_a_preview_while_another_is_handed_over_has_all_of_it(tmp_path: Path, root: Path) -> None:
    source = picture(tmp_path / "a.png", "the first")
    [activity] = with_previews(named("SEM/a.png"), [source], root, SESSION)
    with (root / activity["previews"][0]).open(encoding="utf-8") as reading:
        with_previews(named("SEM/a.png"), [picture(source, "another")], root, SESSION)
        assert reading.read() == "the first"

    assert shown([activity], root) == [("file 0", "another")]
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["a.png"]


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, root: Path) -> None:
    with pytest.raises(PreviewError, match=r"gone\.png cannot be copied: No such file"):
        with_previews(named("SEM/gone.png"), [tmp_path / "gone.png"], root, SESSION)
