"""What may be said about a session."""

from typing import Any

import pytest

from nexus_tasks.builder.session_details import SessionDetails, SessionDetailsError

ALL = {
    "title": "Grain boundaries in steel",
    "motivation": "Two lines,\nas they were typed",
    "experimenters": ["Ann Smith", "Bob"],
    "collaborators": ["Cleo"],
    "project": {"name": "Steel", "division": "641", "group": "02", "id": "641.02.17"},
    "samples": [{"name": "Steel A", "description": "as rolled", "id": "S-1"}, {"name": "Steel B"}],
    "notes": "The stage drifts.",
}


def test_what_is_said_comes_back_as_it_was() -> None:
    assert SessionDetails.parse(ALL).stored() == ALL
    assert SessionDetails.parse(SessionDetails.parse(ALL).stored()) == SessionDetails.parse(ALL)


def test_names_are_put_on_one_line_and_nothing_said_is_nothing_stored() -> None:
    said: dict[str, Any] = {
        "title": " A\n title ",
        "motivation": "  ",
        "experimenters": [],
        "project": {"name": ""},
        "samples": None,
    }

    assert SessionDetails.parse(said).stored() == {"title": "A title"}


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"titel": "x"}, "titel is not known here"),
        ({"title": 5}, "title must be a text"),
        ({"title": "x" * 501}, "title is longer than 500 characters"),
        ({"notes": "a\x00b"}, "notes holds a control character, which a record cannot hold"),
        ({"title": "\ud800"}, "title "),
        ({"experimenters": "Ann"}, "experimenters must be a list"),
        ({"experimenters": ["Ann", " "]}, "experimenters.2 must not be empty"),
        ({"samples": [{"name": "a"}, {"description": "b"}]}, "samples.2 needs a name or an id"),
        ({"samples": [{"id": "1"}, {"id": "1"}]}, "samples names two samples with the id 1"),
        ({"samples": ["Steel"]}, "samples.1 must be an object with its parts by name"),
        ({"project": {"number": "1"}}, "project.number is not known here"),
    ],
)
def test_what_cannot_be_taken_is_told_with_its_field(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SessionDetailsError) as caught:
        SessionDetails.parse(said)

    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


def test_a_change_replaces_what_it_names_and_leaves_the_rest() -> None:
    changes = {"title": "Other", "project": {"id": "641.02.18"}, "samples": [{"name": "C"}], "notes": ""}

    changed = SessionDetails.changed(ALL, changes).stored()

    assert changed == {
        **{name: ALL[name] for name in ("motivation", "experimenters", "collaborators")},
        "title": "Other",
        "project": {"name": "Steel", "division": "641", "group": "02", "id": "641.02.18"},
        "samples": [{"name": "C"}],
    }
