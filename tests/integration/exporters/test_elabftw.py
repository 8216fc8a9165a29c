import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from nexus_tasks.exporters.base import ExportContext, PermanentError, TransientError
from nexus_tasks.exporters.destinations.elabftw import ELabFTWDestination
from nexus_tasks.exporters.http import before_each_write
from nexus_tasks.exporters.title import attachment_name
from nexus_tasks.sandbox.services import StandIns
from nexus_tasks.sandbox.services.standins import ELABFTW_API_KEY
from tests.integration.exporters.conftest import (
    FAULTS,
    LINK,
    SESSION,
    UNSAVED,
    Destination,
    again,
    fault,
    linked,
    of_session,
    rebuild,
    record_xml,
    sha256,
    use,
    wait_until,
)

CREATE = "POST /api/v2/experiments"
CHANGE = "PATCH /api/v2/experiments/{id}"
ATTACH = "POST /api/v2/experiments/{id}/uploads"
REPLACE = "POST /api/v2/experiments/{id}/uploads/{id}"
CREATING = {"experiment": "/experiments$", "upload": "/uploads$"}


class People:
    """What people do at the experiments."""

    def __init__(self, elabftw: Destination, web: requests.Session) -> None:
        self.base = f"{elabftw.server.url}/api/v2/experiments"
        self.web = web
        self.web.headers["Authorization"] = ELABFTW_API_KEY

    def add(self, session: str, title: str = "t") -> str:
        metadata = {"extra_fields": {"Session ID": {"type": "text", "value": session}}}
        answer = self.web.post(self.base, json={"title": title, "metadata": metadata})
        assert answer.status_code == 201
        return answer.headers["Location"].rpartition("/")[2]

    def read(self, number: str) -> dict[str, Any]:
        return dict(self.web.get(f"{self.base}/{number}").json())

    def change(self, number: str, **values: Any) -> None:
        assert self.web.patch(f"{self.base}/{number}", json=values).status_code == 200

    def write(self, number: str, text: str) -> None:
        self.change(number, body=self.read(number)["body"] + text)


@pytest.fixture
def people(elabftw: Destination, web: requests.Session) -> People:
    return People(elabftw, web)


def fields(experiment: dict[str, Any]) -> dict[str, Any]:
    return {name: field["value"] for name, field in experiment["metadata"]["extra_fields"].items()}


def the_experiment(elabftw: Destination, context: ExportContext) -> dict[str, Any]:
    """The only one of the session, which holds what it shall."""
    (experiment,) = [each for each in elabftw.objects if fields(each).get("Session ID") == context.session_identifier]
    (upload,) = [each for each in experiment["uploads"] if each["state"] == 1]
    assert upload["real_name"] == attachment_name(context)
    assert upload["sha256"] == sha256(context)
    return experiment


def shows(experiment: dict[str, Any], context: ExportContext) -> bool:
    return all(file.name in experiment["body"] for activity in context.activities for file in activity.files)


@pytest.mark.parametrize("path", CREATING.values(), ids=CREATING)
@pytest.mark.parametrize("name", FAULTS)
def test_after_any_fault_there_is_one_experiment_with_one_file(
    elabftw: Destination, context: ExportContext, name: str, path: str
) -> None:
    elabftw.fail(context, fault(name, "POST", path))
    if name not in UNSAVED:
        wait_until(lambda: elabftw.objects and (path == "/experiments$" or elabftw.objects[0]["uploads"]))
    result = elabftw.export(context)
    experiment = the_experiment(elabftw, context)
    assert result.record_id == str(experiment["id"])
    assert len(elabftw.objects) == len(experiment["uploads"]) == 1
    assert shows(experiment, context)


def test_after_an_outage_there_is_one_experiment(elabftw: Destination, context: ExportContext) -> None:
    elabftw.export(of_session(context, "before"))
    elabftw.server.stop()
    try:
        with pytest.raises(TransientError, match="refused the connection"):
            elabftw.export(context)
    finally:
        elabftw.server.start()
    elabftw.export(context)
    the_experiment(elabftw, context)


def test_a_second_export_makes_no_call(elabftw: Destination, context: ExportContext) -> None:
    assert elabftw.export(context).metadata["done"] == "created"
    elabftw.server.calls.reset()
    assert elabftw.export(context).metadata["done"] == "unchanged"
    assert elabftw.calls == []


def test_a_further_record_takes_two_calls(elabftw: Destination, context: ExportContext) -> None:
    elabftw.export(context)
    elabftw.server.calls.reset()
    elabftw.export(of_session(context, "another"))
    assert elabftw.calls == [CREATE, ATTACH]


def test_an_experiment_that_is_found_as_it_shall_be_is_not_changed(
    elabftw: Destination, context: ExportContext
) -> None:
    elabftw.fail(linked(context), fault("504 after saving", "POST", "/experiments$"))
    elabftw.server.calls.reset()
    elabftw.export(linked(context))
    assert elabftw.writing_calls == [ATTACH]


def test_a_rebuilt_record_updates_the_same_experiment(elabftw: Destination, context: ExportContext) -> None:
    first = elabftw.export(context)
    for text in ("second", "third"):
        rebuild(context, text)
        elabftw.server.calls.reset()
        result = elabftw.export(context)
        assert (result.record_id, result.metadata["done"]) == (first.record_id, "updated")
        assert elabftw.writing_calls == [CHANGE, REPLACE]
        assert shows(the_experiment(elabftw, context), context)


def test_a_record_that_becomes_as_it_was_is_attached_as_it_is(elabftw: Destination, context: ExportContext) -> None:
    for text in ("first", "second", "first", "second"):
        context.xml_file_path.write_bytes(record_xml(SESSION, text))
        elabftw.export(context)
        the_experiment(elabftw, context)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("then", ["second", "first", "third"])
def test_after_any_fault_of_a_replacement_there_is_one_current_file(
    elabftw: Destination, context: ExportContext, name: str, then: str
) -> None:
    elabftw.export(context)
    context.xml_file_path.write_bytes(record_xml(SESSION, "second"))
    elabftw.fail(context, fault(name, "POST", r"/uploads/\d+$"))
    if name not in UNSAVED:
        wait_until(lambda: len(elabftw.objects[0]["uploads"]) == 2)
    context.xml_file_path.write_bytes(record_xml(SESSION, then))
    elabftw.export(context)
    the_experiment(elabftw, context)


@pytest.mark.parametrize("name", ["504 after saving", "503 before saving", "a cut-off answer"])
@pytest.mark.parametrize("then", ["same", "newer"])
def test_a_change_whose_answer_was_lost_is_not_taken_for_peoples(
    elabftw: Destination, context: ExportContext, name: str, then: str
) -> None:
    elabftw.export(context)
    rebuild(context)
    elabftw.fail(context, fault(name, "PATCH", "/experiments/"))
    if then == "newer":
        rebuild(context, "third")
    elabftw.export(context)
    experiment = the_experiment(elabftw, context)
    assert shows(experiment, context)
    assert "by hand" not in experiment["body"]


def test_the_link_to_cdcs_arrives_late_at_the_same_experiment(elabftw: Destination, context: ExportContext) -> None:
    first = elabftw.export(context)
    elabftw.server.calls.reset()
    result = elabftw.export(linked(context))
    assert (result.record_id, result.metadata["done"]) == (first.record_id, "updated")
    assert elabftw.writing_calls == [CHANGE]
    experiment = the_experiment(elabftw, context)
    assert LINK in experiment["body"]
    assert fields(experiment)["CDCS URL"] == LINK


def test_an_experiment_that_is_found_without_the_link_gets_it(elabftw: Destination, context: ExportContext) -> None:
    elabftw.fail(context, fault("504 after saving", "POST", "/experiments$"))
    elabftw.export(linked(context))
    experiment = the_experiment(elabftw, context)
    assert LINK in experiment["body"]
    assert "by hand" not in experiment["body"]


def test_an_experiment_found_without_the_link_gets_it_even_if_that_fails_at_first(
    elabftw: Destination, context: ExportContext
) -> None:
    elabftw.fail(context, fault("504 after saving", "POST", "/experiments$"))
    elabftw.fail(linked(context), fault("503 before saving", "PATCH", "/experiments/"))
    elabftw.export(linked(context))
    experiment = the_experiment(elabftw, context)
    assert LINK in experiment["body"]
    assert "by hand" not in experiment["body"]


@pytest.mark.parametrize(
    ("name", "text", "comment"),
    [("other.xml", "first", "NexusLIMS record (XML)"), ("{name}", "edited", "my copy"), ("other.xml", "first", "")],
)
def test_a_file_of_people_is_neither_adopted_nor_replaced(
    elabftw: Destination, context: ExportContext, people: People, name: str, text: str, comment: str
) -> None:
    elabftw.fail(context, fault("503 before saving", "POST", "/uploads$"))
    (experiment,) = elabftw.objects
    file = (name.format(name=attachment_name(context)), record_xml(SESSION, text))
    answer = people.web.post(
        f"{people.base}/{experiment['id']}/uploads", files={"file": file}, data={"comment": comment}
    )
    other = int(answer.headers["Location"].rpartition("/")[2])
    elabftw.export(context)
    rebuild(context)
    elabftw.export(context)
    uploads = {each["id"]: each for each in elabftw.objects[0]["uploads"]}
    assert uploads.pop(other)["state"] == 1
    (current,) = [each for each in uploads.values() if each["state"] == 1]
    assert current["sha256"] == sha256(context)


def test_a_link_that_is_no_more_is_taken_away(elabftw: Destination, context: ExportContext) -> None:
    elabftw.export(linked(context))
    elabftw.export(context)
    experiment = the_experiment(elabftw, context)
    assert LINK not in experiment["body"]
    assert "CDCS URL" not in fields(experiment)


def test_what_people_wrote_is_kept_and_noted_once_for_each_content(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    number = elabftw.export(context).record_id or ""
    people.write(number, "<p>grain boundary at 5 µm &amp; more</p>")
    rebuild(context)
    for _ in range(2):
        elabftw.export(linked(context))
    experiment = the_experiment(elabftw, context)
    assert "grain boundary at 5 µm" in experiment["body"]
    assert not shows(experiment, context)
    assert experiment["body"].count("by hand") == 1
    assert f'href="{LINK}"' in experiment["body"]
    assert fields(experiment)["CDCS URL"] == LINK
    rebuild(context, "third")
    elabftw.export(linked(context))
    body = the_experiment(elabftw, context)["body"]
    assert body.count("by hand") == 2
    assert body.count("grain boundary") == 1


@pytest.mark.parametrize("name", ["504 after saving", "503 before saving"])
def test_a_note_whose_answer_was_lost_stands_there_once(
    elabftw: Destination, context: ExportContext, people: People, name: str
) -> None:
    number = elabftw.export(context).record_id or ""
    people.write(number, "<p>people's</p>")
    rebuild(context)
    elabftw.fail(context, fault(name, "PATCH", "/experiments/"))
    elabftw.export(context)
    assert the_experiment(elabftw, context)["body"].count("by hand") == 1


@pytest.mark.parametrize("text", ["", "<p>all new</p>"])
def test_a_text_that_people_have_replaced_is_theirs_too(
    elabftw: Destination, context: ExportContext, people: People, text: str
) -> None:
    number = elabftw.export(context).record_id or ""
    people.change(number, body=text)
    rebuild(context)
    elabftw.export(context)
    body = the_experiment(elabftw, context)["body"]
    assert body.startswith(text)
    assert not body.startswith("<h1>")


def test_markup_that_an_editor_has_rewritten_is_not_peoples_text(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    number = elabftw.export(context).record_id or ""
    body = people.read(number)["body"]
    people.change(number, body="".join(line.strip() for line in body.splitlines()).replace("strong>", "b>"))
    rebuild(context)
    elabftw.export(context)
    assert shows(the_experiment(elabftw, context), context)


def test_fields_title_and_tags_of_people_are_kept(elabftw: Destination, context: ExportContext, people: People) -> None:
    number = elabftw.export(context).record_id or ""
    metadata = json.loads(people.read(number)["metadata"])
    metadata["extra_fields"]["Sample"] = {"type": "text", "value": "steel"}
    metadata["elabftw"] = {"display_main_text": True}
    people.change(number, title="My steel", metadata=json.dumps(metadata))
    elabftw.export(linked(context))
    experiment = the_experiment(elabftw, context)
    assert fields(experiment) | {"Sample": "steel", "CDCS URL": LINK} == fields(experiment)
    assert experiment["metadata"]["elabftw"] == {"display_main_text": True}
    assert experiment["title"] == "My steel"


@pytest.mark.parametrize("how", ["deleted", "archived"])
@pytest.mark.parametrize("what", ["everything", "the file alone"])
def test_an_experiment_that_is_gone_is_made_again_only_when_asked(
    elabftw: Destination, context: ExportContext, people: People, how: str, what: str
) -> None:
    number = elabftw.export(context).record_id or ""
    people.change(number, state={"deleted": 3, "archived": 2}[how])
    if what == "everything":
        rebuild(context)
    else:
        context.xml_file_path.write_bytes(record_xml(SESSION, "second"))
    command = f"nexus-tasks retry {SESSION} --destination elabftw --recreate"
    with pytest.raises(PermanentError, match=f"deleted or archived.*{command}"):
        elabftw.export(context)
    assert len(elabftw.objects) == 1
    assert elabftw.export(again(context)).metadata["done"] == "created"  # as --recreate does


def test_a_file_that_people_have_deleted_is_made_again_only_when_asked(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    result = elabftw.export(context)
    people.web.delete(f"{people.base}/{result.record_id}/uploads/{result.metadata['upload_id']}")
    rebuild(context)
    with pytest.raises(PermanentError, match="--recreate"):
        elabftw.export(context)


@pytest.mark.parametrize(
    ("session", "lookalike"),
    [
        ("ab_1", "abx1"),
        ("ab%", "abc"),
        ("abc", "ABC"),
        ("abc", "abc1"),
        ('a"b', "a'b"),
        ("a\\b", "a/b"),
        ("a' & <b> \" \\ %_", "a' & <b> \" \\ %x"),
    ],
)
@pytest.mark.parametrize("name", ["503 before saving", "504 after saving"])
def test_an_experiment_of_another_session_is_not_adopted(
    elabftw: Destination, context: ExportContext, people: People, session: str, lookalike: str, name: str
) -> None:
    odd = of_session(context, session)
    other = people.add(lookalike, f"NexusLIMS Experiment - {session}")
    elabftw.fail(odd, fault(name, "POST", "/experiments$"))
    assert elabftw.export(odd).record_id != other
    the_experiment(elabftw, odd)
    assert len(elabftw.objects) == 2


def test_of_several_experiments_of_the_session_the_oldest_is_adopted(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    oldest = people.add(SESSION)
    for _ in range(60):
        people.add(SESSION.upper())  # more than one page of what a search finds
    people.add(SESSION)
    elabftw.fail(context, fault("503 before saving", "POST", "/experiments$"))
    assert elabftw.export(context).record_id == oldest


def test_each_writing_call_is_checked_directly_before_it(elabftw: Destination, context: ExportContext) -> None:
    checks: list[int] = []
    with before_each_write(lambda: checks.append(len(elabftw.writing_calls))):
        elabftw.export(context)
        rebuild(context)
        elabftw.export(context)
    assert elabftw.writing_calls == [CREATE, ATTACH, CHANGE, REPLACE]
    assert checks == [0, 1, 2, 3]


@pytest.fixture
def old_release(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Destination]:
    with StandIns.start(elabftw_version=50100) as older:
        use(older, monkeypatch, tmp_path)
        yield Destination(ELabFTWDestination(), older.elabftw)


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [(name, "POST", "/experiments$") for name in FAULTS] + [(name, "PATCH", "/experiments/") for name in FAULTS],
)
def test_in_an_old_release_there_is_one_experiment_after_any_fault(
    old_release: Destination, context: ExportContext, name: str, method: str, path: str
) -> None:
    old_release.fail(context, fault(name, method, path))
    if name not in UNSAVED and method == "POST":
        wait_until(lambda: old_release.objects)
    old_release.export(context)
    assert len(old_release.objects) == 1
    experiment = the_experiment(old_release, context)
    assert shows(experiment, context)
    assert "by hand" not in experiment["body"]
    old_release.server.calls.reset()
    old_release.export(context)
    assert old_release.calls == []
