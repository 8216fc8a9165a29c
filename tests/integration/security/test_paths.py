"""What a record from somewhere else names as files stays below the folders that are meant for it."""

from pathlib import Path, PurePosixPath

import pytest

from nexus_tasks.builder import record_xml
from nexus_tasks.builder.foreign_previews import with_previews
from nexus_tasks.builder.schema import NAMESPACE

OUTSIDE = [
    "../secret",
    "a/../../secret",
    "..",
    "/../secret",
    "a/../b",
    "%2e%2e/secret/..",
    "file:///etc/passwd",
    "http://example.org/a.dm4",
]


def record(location: str, preview: str) -> bytes:
    return (
        f'<Experiment xmlns="{NAMESPACE}"><acquisitionActivity seqno="0"><dataset type="Image" role="Experimental">'
        f"<name>a</name><location>{location}</location><preview>{preview}</preview></dataset></acquisitionActivity>"
        "</Experiment>"
    ).encode()


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_record_s_paths_do_not_lead_out_of_the_folders(path: str) -> None:
    for activity in record_xml.read_activities(record(path, path)):
        for named in [*activity["files"], *filter(None, activity["previews"])]:
            assert not PurePosixPath(named).is_absolute()
            assert ".." not in PurePosixPath(named).parts
            assert ":" not in named.partition("/")[0]


def test_an_absolute_path_is_one_below_the_folder() -> None:
    [activity] = record_xml.read_activities(record("/Titan/a.dm4", "/Titan/a.png"))
    assert activity["files"] == ["Titan/a.dm4"]
    assert activity["previews"] == ["Titan/a.png"]


def test_a_preview_that_nobody_handed_over_is_not_sent_though_a_file_of_that_name_is_there(tmp_path: Path) -> None:
    (tmp_path / "Titan").mkdir()
    (tmp_path / "Titan" / "of-somebody-else.png").write_bytes(b"secret")
    named = record_xml.read_activities(record("/Titan/a.dm4", "/Titan/of-somebody-else.png"))

    [activity] = with_previews(named, [], tmp_path, "session")
    assert activity["previews"] == [None]


def test_a_preview_is_copied_below_its_own_folder_whatever_the_session_is_called(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"picture")
    root = tmp_path / "previews"

    [activity] = with_previews([], [picture], root, "../../../etc")
    [copied] = activity["previews"]
    assert copied is not None
    assert (root / copied).resolve().is_relative_to(root.resolve())
    assert [file for file in tmp_path.rglob("*") if file.is_file() and root not in file.parents] == [picture]
