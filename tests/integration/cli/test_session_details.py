"""What is said about sessions on the command line and in files, and what becomes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Run, done, refused

HEADER = "session,instrument,start,end,user,title,experimenters,samples,sample_ids,project,project_id"
ROW = 's1,SEM-1,2026-01-31 09:00,2026-01-31 12:00,ann,"Rust, again",Ann Smith|Bob,Nail|Screw,N-1|S-1,Steel,641.02'
DETAILS = {
    "title": "Rust, again",
    "experimenters": ["Ann Smith", "Bob"],
    "samples": [{"name": "Nail", "id": "N-1"}, {"name": "Screw", "id": "S-1"}],
    "project": {"name": "Steel", "id": "641.02"},
}
ENTRY = {
    "session": "s1",
    "instrument": "SEM-1",
    "start": "2026-01-31T09:00:00+01:00",
    "end": "2026-01-31T12:00:00+01:00",
    "user": "ann",
    **DETAILS,
}


@pytest.fixture
def lab(run: Run) -> Run:
    done(run("instruments", "add", "SEM-1", "--folder", "SEM", "--timezone", "Europe/Berlin"))
    return run


def add(run: Run, session: str, *options: str) -> str:
    times = ("--start", "2026-01-31T09:00", "--end", "2026-01-31T12:00")
    return done(run("sessions", "add", session, "--instrument", "SEM-1", *times, *options))


def shown(run: Run, session: str = "s1") -> dict[str, Any]:
    (row,) = json.loads(done(run("sessions", "show", session, "--json")))
    assert isinstance(row, dict)
    return row


def imported(run: Run, file: Path) -> dict[str, list[str]]:
    counts: dict[str, list[str]] = json.loads(done(run("sessions", "import", file, "--json")))
    return {what: sessions for what, sessions in counts.items() if sessions}


def test_a_session_is_added_with_what_is_said_about_it_and_shows_it(lab: Run) -> None:
    names = ("--experimenter", "Ann Smith", "--experimenter", "Bob", "--collaborator", "Cleo")
    samples = ("--sample", "Nail", "--sample-id", "N-1", "--sample", "Screw", "--sample-id", "S-1")
    project = ("--project", "Steel", "--project-id", "641.02", "--project-division", "641", "--project-group", "02")
    add(lab, "s1", "--title", "Rust", "--motivation", "Why", "--notes", "None", *names, *samples, *project)

    assert shown(lab)["details"] == {
        "title": "Rust",
        "motivation": "Why",
        "experimenters": ["Ann Smith", "Bob"],
        "collaborators": ["Cleo"],
        "project": {"name": "Steel", "division": "641", "group": "02", "id": "641.02"},
        "samples": DETAILS["samples"],
        "notes": "None",
    }
    told = done(lab("sessions", "show", "s1"))
    assert "samples: Nail, id N-1; Screw, id S-1" in told
    assert "title: Rust" in told


def test_a_session_that_nothing_is_said_about_has_no_details(lab: Run) -> None:
    add(lab, "s1")

    assert shown(lab)["details"] == {}


def test_what_is_said_can_be_changed_and_taken_away(lab: Run) -> None:
    add(
        lab, "s1", "--title", "Rust", "--notes", "x", "--project", "Steel", "--project-id", "1", "--experimenter", "Ann"
    )

    done(lab("sessions", "describe", "s1", "--title", "Corrosion", "--notes", "", "--project-id", "2"))
    done(lab("sessions", "describe", "s1", "--experimenter", ""))

    assert shown(lab)["details"] == {"title": "Corrosion", "project": {"name": "Steel", "id": "2"}}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--sample", "a", "--sample", "b", "--sample-id", "1"), "--sample-id must be given for each of the 2 samples"),
        (("--sample", "a", "--sample", "b", "--sample-id", "1", "--sample-id", "1"), "two samples with the id 1"),
        (("--sample-description", "rusty"), "--sample needs a name or an id"),
        (("--title", "x" * 501), "--title is longer than 500 characters"),
        (("--experimenter", "x" * 501), "--experimenter is longer"),
        (("--project-id", "x" * 501), "--project-id is longer"),
        ((), "Say what to change"),
    ],
)
def test_what_cannot_be_taken_is_told_with_its_option(lab: Run, options: tuple[str, ...], complaint: str) -> None:
    add(lab, "s1", "--title", "Rust")

    assert complaint in refused(lab("sessions", "describe", "s1", *options))
    assert shown(lab)["details"] == {"title": "Rust"}


def test_a_session_that_is_not_known_cannot_be_described(lab: Run) -> None:
    assert "no session s9" in refused(lab("sessions", "describe", "s9", "--title", "x"))


# --- files of sessions


@pytest.fixture(params=["csv", "csv with ;", "csv of a spreadsheet", "json"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "json":
        path = tmp_path / "sessions.json"
        path.write_text(json.dumps([ENTRY]), encoding="utf-8")
        return path
    text = f"{HEADER}\n{ROW}\n"
    if request.param == "csv with ;":
        text = f"{HEADER}\n{ROW}\n".replace(",", ";").replace("Rust; again", "Rust, again")
    path = tmp_path / "sessions.CSV"
    path.write_text(text, encoding="utf-8-sig" if "spreadsheet" in request.param else "utf-8")
    return path


def test_a_file_makes_sessions_known_with_what_is_said_about_them(lab: Run, file: Path) -> None:
    assert imported(lab, file) == {"added": ["s1"]}

    row = shown(lab)
    assert (row["instrument_pid"], row["user"], row["status"]) == ("SEM-1", "ann", "TO_BE_BUILT")
    assert (row["start"], row["end"]) == ("2026-01-31 08:00:00+00:00", "2026-01-31 11:00:00+00:00")
    assert row["details"] == DETAILS


def test_the_same_file_again_changes_nothing(lab: Run, file: Path) -> None:
    imported(lab, file)
    before = shown(lab)

    assert imported(lab, file) == {"unchanged": ["s1"]}
    assert shown(lab) == before
    assert "0 added, 0 described anew, 1 unchanged" in done(lab("sessions", "import", file))


def test_a_file_says_what_it_says_and_leaves_the_rest(lab: Run, tmp_path: Path) -> None:
    add(lab, "s1", "--title", "Rust", "--notes", "kept")
    file = tmp_path / "more.csv"
    file.write_text("session,title,motivation\ns1,Corrosion,\n", encoding="utf-8")

    assert imported(lab, file) == {"described": ["s1"]}
    assert shown(lab)["details"] == {"title": "Corrosion", "notes": "kept"}


WRONG = {
    "a time": ({"start": "yesterday"}, "column start: 'yesterday' is not a time"),
    "a time that comes twice": ({"start": "2026-10-25 02:30"}, "column start: '2026-10-25 02:30' comes twice or never"),
    "an end before the start": ({"end": "2026-01-30 12:00"}, "column end: session s2 ends before it starts"),
    "no start": ({"start": ""}, "column start: is missing, and session s2 is not known yet"),
    "no session": ({"session": ""}, "column session: is missing"),
    "a session twice": ({"session": "s1"}, "column session: s1 stands in {name}, row {first} already"),
    "an instrument": ({"instrument": "TEM-9"}, "column instrument: there is no instrument TEM-9"),
    "a title": ({"title": "x" * 501}, "column title: is longer than 500 characters"),
}


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_row_is_named_and_nothing_is_imported(lab: Run, tmp_path: Path, wrong: str, kind: str) -> None:
    change, complaint = WRONG[wrong]
    good = {key: str(ENTRY[key]) for key in ("session", "instrument", "start", "end", "title")}
    rows = [good, {**good, "session": "s2", **change}]
    file = tmp_path / f"sessions.{kind}"
    if kind == "json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    else:
        lines = [",".join(good), *(",".join(f'"{cell}"' for cell in row.values()) for row in rows)]
        file.write_text("\n".join(lines), encoding="utf-8")

    told = refused(lab("sessions", "import", file))

    first, second = (1, 2) if kind == "json" else (2, 3)
    assert told.startswith(f"{file.name}, row {second}, {complaint.format(name=file.name, first=first)}")
    assert json.loads(done(lab("sessions", "list", "--json"))) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "session,titel\ns1,x\n", "a.csv, row 1, column titel: is not known"),
        ("a.csv", "session,title,title\ns1,x,y\n", "a.csv, row 1, column title: stands there twice"),
        ("a.csv", "session\ns1,x\n", "a.csv, row 2 has 2 cells"),
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", 'session,title\ns1,"x"y\n', "a.csv is no CSV file"),
        ("a.csv", "session,samples,sample_ids\ns1,a|b,1\n", "a.csv, row 2, column sample_ids: must be given for each"),
        ("a.csv", "session,experimenters\ns1,a||b\n", "a.csv, row 2, column experimenters: must not be empty"),
        ("a.csv", f"session,samples,sample_ids\ns1,a|b,1|{'x' * 501}\n", "a.csv, row 2, column sample_ids: is longer"),
        ("a.csv", f"session,project_id\ns1,{'x' * 501}\n", "a.csv, row 2, column project_id: is longer"),
        ("a.json", "[{", "a.json is not JSON"),
        ("a.json", "{}", "a.json must be a list"),
        ("a.json", '["s1"]', "a.json, row 1 must be an object"),
        ("a.json", '[{"session": 5}]', "a.json, row 1, column session: must be a text"),
        ("a.json", '[{"session": "s1", "titel": "x"}]', "a.json, row 1, column titel: is not known"),
        ("a.json", '[{"session": "s1", "samples": [{}]}]', "a.json, row 1, column samples.1: needs a name or an id"),
        ("a.json", '[{"session": "s\\u0000"}]', "a.json, row 1, column session: holds a control character"),
        ("a.json", '[{"session": "s1", "project": {"nr": 1}}]', "a.json, row 1, column project.nr: is not known here"),
        ("a.txt", "", "a.txt is neither a .csv nor a .json file"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line(
    lab: Run, tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    add(lab, "s1")
    (tmp_path / name).write_text(text, encoding="utf-8")

    assert refused(lab("sessions", "import", tmp_path / name)).startswith(complaint)
    assert shown(lab)["details"] == {}


def test_a_file_that_is_missing_or_in_another_encoding_is_named(lab: Run, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("session,title\ns1,Härte\n".encode("cp1252"))

    assert "latin.csv is not in UTF-8" in refused(lab("sessions", "import", tmp_path / "latin.csv"))
    assert "nowhere.csv cannot be read" in refused(lab("sessions", "import", tmp_path / "nowhere.csv"))


@pytest.mark.parametrize(
    ("column", "cell"),
    [("instrument", "TEM-9"), ("start", "2026-01-31 09:01"), ("end", "2026-01-31 13:00"), ("user", "bob")],
)
def test_a_file_cannot_change_what_a_known_session_was(lab: Run, tmp_path: Path, column: str, cell: str) -> None:
    add(lab, "s1", "--user", "ann")
    file = tmp_path / "a.csv"
    file.write_text(f"session,{column},title\ns1,{cell},Other\n", encoding="utf-8")

    told = refused(lab("sessions", "import", file))

    assert told.startswith(f"a.csv, row 2, column {column}: session s1 is known with ")
    assert shown(lab)["details"] == {}


# --- instruments


def test_an_instrument_is_known_with_the_offset_of_its_clock(run: Run) -> None:
    done(run("instruments", "add", "SEM-1", "--folder", "SEM", "--clock-offset", "-90.5"))

    (row,) = json.loads(done(run("instruments", "list", "--json")))
    assert row["clock_offset_s"] == -90.5
    assert "-90.5 s" in done(run("instruments", "list"))
    assert "offset nan" in refused(run("instruments", "add", "SEM-1", "--folder", "SEM", "--clock-offset", "nan"))


def test_an_instrument_added_again_keeps_what_is_not_named(run: Run) -> None:
    said = ("--name", "Nice SEM", "--location", "B1 R2", "--timezone", "America/New_York", "--clock-offset", "120")
    done(run("instruments", "add", "SEM-1", "--folder", "SEM", *said))

    assert "brought up to date" in done(run("instruments", "add", "SEM-1", "--folder", "SEM_new"))
    done(run("instruments", "add", "SEM-1", "--folder", "SEM_new", "--clock-offset", "0"))

    (row,) = json.loads(done(run("instruments", "list", "--json")))
    assert row == {
        "instrument_pid": "SEM-1",
        "display_name": "Nice SEM",
        "location": "B1 R2",
        "filestore_path": "SEM_new",
        "timezone": "America/New_York",
        "clock_offset_s": 0,
    }


def test_a_new_instrument_of_which_little_is_said_is_in_utc_with_a_clock_that_is_right(run: Run) -> None:
    done(run("instruments", "add", "SEM-1", "--folder", "SEM"))

    (row,) = json.loads(done(run("instruments", "list", "--json")))
    assert (row["timezone"], row["clock_offset_s"], row["display_name"]) == ("UTC", 0, None)
