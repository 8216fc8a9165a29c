import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from lxml import html

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import (
    Activity,
    ConfigurationError,
    ExportContext,
    ExportError,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.checkup import check_up
from nexus_tasks.exporters.destinations.elabftw import ELabFTWDestination
from nexus_tasks.exporters.http import before_each_call
from nexus_tasks.exporters.title import attachment_name
from nexus_tasks.exporters.written_text import visible, without_white_space
from nexus_tasks.sandbox.services import StandIns
from nexus_tasks.sandbox.services.elabftw.installation import READ_ONLY_API_KEY
from nexus_tasks.sandbox.services.elabftw.service import Elabftw
from nexus_tasks.sandbox.services.faults import Fault
from nexus_tasks.sandbox.services.server import StandInServer
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

    def set_field(self, number: str, name: str, value: str | None) -> None:
        """Change an extra field, or take it away."""
        metadata = json.loads(self.read(number)["metadata"] or "{}")
        extra_fields = metadata.setdefault("extra_fields", {})
        extra_fields.pop(name, None)
        if value is not None:
            extra_fields[name] = {"type": "text", "value": value}
        self.change(number, metadata=json.dumps(metadata))

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


def change(context: ExportContext, what: str) -> None:
    """What a rebuild changes."""
    if what == "everything":
        rebuild(context)
    else:
        context.xml_file_path.write_bytes(record_xml(SESSION, "second"))


@pytest.mark.parametrize("owner", ["another", None])
@pytest.mark.parametrize("what", ["everything", "the file alone"])
def test_an_experiment_of_another_session_is_not_touched(
    elabftw: Destination, context: ExportContext, people: People, what: str, owner: str | None
) -> None:
    """As after a restore of eLabFTW's database: our number is somebody else's now."""
    number = elabftw.export(context).record_id or ""
    people.change(number, title="Something else")
    people.set_field(number, "Session ID", owner)
    before = elabftw.objects
    change(context, what)
    command = f"nexus-tasks retry {SESSION} --destination elabftw --recreate"
    with pytest.raises(PermanentError, match=f"Experiment {number} .*NX_ELABFTW_URL.*{command}") as caught:
        elabftw.export(context)
    assert (owner or "has no Session ID") in str(caught.value)
    assert elabftw.objects == before
    recreated = elabftw.export(again(context))  # as --recreate does
    assert recreated.record_id != number
    the_experiment(elabftw, context)
    assert elabftw.objects[0] == before[0]


def test_the_file_does_not_follow_to_an_experiment_of_another_session(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    elabftw.fail(context, fault("503 before saving", "POST", "/uploads$"))
    (experiment,) = elabftw.objects
    people.set_field(str(experiment["id"]), "Session ID", "another")
    with pytest.raises(PermanentError, match="--recreate"):
        elabftw.export(context)
    assert elabftw.objects[0]["uploads"] == []


def test_an_experiment_whose_title_names_the_session_needs_no_field(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    number = elabftw.export(context).record_id or ""
    people.set_field(number, "Session ID", None)
    rebuild(context)
    assert elabftw.export(context).record_id == number
    assert shows(elabftw.objects[0], context)


@pytest.mark.parametrize("names_its_session", [True, False])
@pytest.mark.parametrize("first", ["goes through", "fails"])
def test_what_nexuslims_has_made_is_brought_up_to_date(
    elabftw: Destination, context: ExportContext, people: People, names_its_session: bool, first: str
) -> None:
    """NexusLIMS gives it the same field; in a release before 5.2, where a POST takes none, it has no field at all."""
    number = people.add(SESSION, "NexusLIMS Experiment - 2026-03-02_Titan-012345_abc")
    if not names_its_session:
        people.set_field(number, "Session ID", None)
    context.checkpoint.create("experiment", lambda: number)  # as the take-over does
    if first == "fails":
        elabftw.fail(context, fault("503 before saving", "PATCH", "/experiments/"))
    assert elabftw.export(context).record_id == number
    assert "CDCS URL" not in fields(the_experiment(elabftw, context))
    assert len(elabftw.objects) == 1


# --- a proxy that speaks for eLabFTW while it is away


def away(method: str, path: str) -> Fault:
    return Fault.from_json(
        {"kind": "status", "status": 404, "body": "404 page not found\n", "method": method, "path": path}
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", r"/experiments/\d+$"),
        ("PATCH", r"/experiments/\d+$"),
        ("GET", "/uploads$"),
        ("POST", r"/uploads/\d+$"),
    ],
)
def test_the_404_of_a_proxy_does_not_say_that_an_experiment_was_deleted(
    elabftw: Destination, context: ExportContext, method: str, path: str
) -> None:
    elabftw.export(context)
    rebuild(context)
    elabftw.server.faults.replace([away(method, path)])
    with pytest.raises(ConfigurationError, match=r"no eLabFTW at the address.*check NX_ELABFTW_URL"):
        elabftw.export(context)
    elabftw.server.faults.replace([])
    elabftw.export(context)
    assert shows(the_experiment(elabftw, context), context)


def test_the_404_of_a_proxy_does_not_refuse_a_record(elabftw: Destination, context: ExportContext) -> None:
    elabftw.export(of_session(context, "before"))
    elabftw.server.faults.replace([away("POST", "/experiments$")])
    with pytest.raises(ConfigurationError, match="check NX_ELABFTW_URL"):
        elabftw.export(context)
    elabftw.fail(context, fault("504 after saving", "POST", "/experiments$"))
    elabftw.server.faults.replace([away("GET", "/experiments$")])
    with pytest.raises(ConfigurationError, match="check NX_ELABFTW_URL"):
        elabftw.export(context)
    elabftw.server.faults.replace([])
    elabftw.export(context)
    the_experiment(elabftw, context)


# --- settings of the team


@pytest.fixture
def team(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Destination]:
    """An eLabFTW whose team has the settings of the test's parameter."""
    server = StandInServer(Elabftw(ELABFTW_API_KEY, **request.param))
    server.start()
    configured(monkeypatch, NX_ELABFTW_URL=server.url)
    yield Destination(ELabFTWDestination(), server)
    server.stop()


no_new_tags = pytest.mark.parametrize("team", [{"user_create_tag": False}], indirect=True)
templates_only = pytest.mark.parametrize("team", [{"force_exp_tpl": True}], indirect=True)


@no_new_tags
@pytest.mark.parametrize("reading", ["/experiments$", r"/experiments/\d+$"])
@pytest.mark.parametrize(
    "trouble",
    [
        {"kind": "status", "status": 503},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 404, "body": "404 page not found"},
        {"kind": "status", "status": 401, "body": '{"code": 401, "message": "Unauthorized", "description": "no"}'},
        {"kind": "reset"},
    ],
)
def test_what_a_refused_tag_has_left_behind_is_adopted_although_it_is_not_found_at_once(
    team: Destination, context: ExportContext, trouble: dict[str, Any], reading: str
) -> None:
    team.fail(context, Fault.from_json({**trouble, "method": "GET", "path": reading, "times": 1}))
    team.export(context)
    assert len(team.objects) == 1
    experiment = the_experiment(team, context)
    assert experiment["tags"] == []
    assert shows(experiment, context)


@no_new_tags
def test_what_a_refused_tag_has_left_behind_is_adopted_although_the_worker_dies(
    team: Destination, context: ExportContext
) -> None:
    def die_after_the_creation(*_: object) -> None:
        if team.objects:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), before_each_call(die_after_the_creation):
        team.export(context)
    team.export(context)
    assert len(team.objects) == 1
    the_experiment(team, context)


@no_new_tags
def test_what_a_refused_tag_has_left_behind_is_not_changed_where_it_holds_all(
    team: Destination, context: ExportContext
) -> None:
    result = team.export(linked(context))
    assert team.writing_calls == [CREATE, ATTACH]
    assert result.metadata["done"] == "updated"
    assert team.export(linked(context)).metadata["done"] == "unchanged"


@templates_only
def test_a_team_that_makes_experiments_from_templates_only_is_a_matter_of_configuration(
    team: Destination, context: ExportContext
) -> None:
    with pytest.raises(ConfigurationError, match="force_exp_tpl"):
        team.export(context)
    assert team.objects == []


@templates_only
@pytest.mark.parametrize(("status", "kind"), [(403, PermanentError), (503, TransientError)])
def test_a_team_that_may_not_be_read_tells_nothing(
    team: Destination, context: ExportContext, status: int, kind: type[ExportError]
) -> None:
    team.server.faults.replace([Fault.from_json({"kind": "status", "status": status, "path": "/teams/current$"})])
    with pytest.raises(kind):
        team.export(context)


@pytest.mark.parametrize("how", ["deleted", "archived"])
@pytest.mark.parametrize("what", ["everything", "the file alone"])
def test_an_experiment_that_is_gone_is_made_again_only_when_asked(
    elabftw: Destination, context: ExportContext, people: People, how: str, what: str
) -> None:
    number = elabftw.export(context).record_id or ""
    people.change(number, state={"deleted": 3, "archived": 2}[how])
    change(context, what)
    command = f"nexus-tasks retry {SESSION} --destination elabftw --recreate"
    with pytest.raises(PermanentError, match=f"deleted or archived.*{command}") as caught:
        elabftw.export(context)
    assert "What is left" not in str(caught.value)
    assert len(elabftw.objects) == 1
    assert elabftw.export(again(context)).metadata["done"] == "created"  # as --recreate does


@pytest.mark.parametrize("name", ["504 after saving", "503 before saving"])
def test_an_archived_experiment_does_not_stand_in_the_way_of_a_new_one(
    elabftw: Destination, context: ExportContext, people: People, name: str
) -> None:
    archived = elabftw.export(context).record_id or ""
    people.change(archived, state=2)
    recreated = again(context)
    elabftw.fail(recreated, fault(name, "POST", "/experiments$"))
    result = elabftw.export(recreated)  # looks up first what the lost call has made
    assert [(each["id"], each["state"]) for each in elabftw.objects] == [(int(archived), 2), (int(archived) + 1, 1)]
    assert result.record_id == str(int(archived) + 1)


def test_a_refused_tag_is_told_although_an_experiment_of_the_session_is_archived(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    people.change(people.add(SESSION), state=2)
    refusal = {"kind": "status", "status": 400, "body": '{"code": 400, "message": "Tag refused"}', "method": "POST"}
    elabftw.server.faults.replace([Fault.from_json({**refusal, "path": "/experiments$", "times": 1})])
    with pytest.raises(PermanentError, match="Tag refused"):
        elabftw.export(context)


def test_a_file_that_people_have_deleted_is_made_again_only_when_asked(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    result = elabftw.export(context)
    people.web.delete(f"{people.base}/{result.record_id}/uploads/{result.metadata['upload_id']}")
    rebuild(context)
    with pytest.raises(PermanentError, match=r"What is left would stay beside a new one: delete .* --recreate"):
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


def test_each_call_is_checked_directly_before_it(elabftw: Destination, context: ExportContext) -> None:
    checks: list[int] = []
    with before_each_call(lambda: checks.append(len(elabftw.calls))):
        elabftw.export(context)
        rebuild(context)
        elabftw.export(context)
    assert elabftw.writing_calls == [CREATE, ATTACH, CHANGE, REPLACE]
    assert checks == list(range(len(elabftw.calls)))


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


# --- releases


@pytest.mark.parametrize(
    ("version", "calls"),
    [
        (50000, [CREATE, CHANGE, ATTACH]),
        (50100, [CREATE, CHANGE, ATTACH]),
        (50200, [CREATE, ATTACH]),
        (50300, [CREATE, ATTACH]),
    ],
)
def test_a_record_arrives_whole_in_every_release(
    context: ExportContext, version: int, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with StandIns.start(elabftw_version=version) as stand_ins:
        use(stand_ins, monkeypatch, tmp_path)
        elabftw = Destination(ELabFTWDestination(), stand_ins.elabftw)
        elabftw.export(of_session(context, "before"))
        elabftw.server.calls.reset()
        elabftw.export(linked(context))
        assert elabftw.calls == calls
        experiment = the_experiment(elabftw, context)
        assert experiment["title"] == f"NexusLIMS Experiment - {SESSION}"
        assert experiment["tags"] == ["NexusLIMS", context.instrument_pid, context.user]
        assert shows(experiment, context)
        assert LINK in experiment["body"]
        assert set(fields(experiment)) == {"Session ID", "Instrument", "User", "Start", "End", "CDCS URL"}
        elabftw.server.calls.reset()
        elabftw.export(linked(context))
        assert elabftw.calls == []


# --- checks


def findings(elabftw: Destination) -> dict[str, tuple[bool | None, str]]:
    return {finding.name: (finding.ok, finding.message) for finding in check_up(elabftw.plugin)}


def configured(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    get_settings.cache_clear()


def test_its_checks_say_what_they_found(elabftw: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(monkeypatch, NX_ELABFTW_EXPERIMENT_CATEGORY=2, NX_ELABFTW_EXPERIMENT_STATUS=1)
    found = findings(elabftw)
    clock = found.pop("clock")
    assert clock[0]
    assert clock[1].endswith(" s apart")
    assert found == {
        "settings": (True, "complete"),
        "reachable": (True, "release 5.3.11"),
        "authentication": (True, "as Sandbox User, team Sandbox team"),
        "category": (True, "2 (Spectroscopy)"),
        "status": (True, "1 (Running)"),
        "rights": (True, "the key may write"),
    }
    assert elabftw.writing_calls == []
    assert elabftw.objects == []


def test_a_category_and_a_status_that_are_not_set_are_not_checked(elabftw: Destination) -> None:
    assert list(findings(elabftw)) == ["settings", "reachable", "authentication", "rights", "clock"]


def test_a_wrong_key_fails_the_checks_before_what_needs_it(
    elabftw: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(monkeypatch, NX_ELABFTW_API_KEY="7-wrong", NX_ELABFTW_EXPERIMENT_CATEGORY=2)
    found = findings(elabftw)
    assert found["reachable"] == (True, "it answers; its release it tells only with the right key")
    assert found["authentication"][0] is False
    assert "check NX_ELABFTW_API_KEY" in found["authentication"][1]
    assert [found[name][0] for name in ("category", "rights", "clock")] == [None, None, None]


def test_a_clock_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = StandInServer(Elabftw(ELABFTW_API_KEY, clock_ahead=120))
    server.start()
    try:
        with StandIns.start() as stand_ins:
            use(stand_ins, monkeypatch, tmp_path)
            configured(monkeypatch, NX_ELABFTW_URL=server.url)
            found = findings(Destination(ELabFTWDestination(), server))
    finally:
        server.stop()
    assert found["clock"][0] is False
    assert "s ahead of ours: set the clock" in found["clock"][1]


def test_an_eln_that_is_away_fails_the_first_check(elabftw: Destination) -> None:
    elabftw.server.stop()
    try:
        found = findings(elabftw)
    finally:
        elabftw.server.start()
    assert found["reachable"][0] is False
    assert "refused the connection" in found["reachable"][1]
    assert found["clock"][0] is None


def test_a_category_and_a_status_that_are_not_there_are_named_with_those_that_are(
    elabftw: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(monkeypatch, NX_ELABFTW_EXPERIMENT_CATEGORY=9, NX_ELABFTW_EXPERIMENT_STATUS=99)
    found = findings(elabftw)
    assert found["category"] == (
        False,
        (
            "The team has no experiment category 9; it has 1 (Imaging), 2 (Spectroscopy), 3 (Diffraction). "
            "Set NX_ELABFTW_EXPERIMENT_CATEGORY to one of these, or to nothing."
        ),
    )
    assert found["status"][0] is False
    assert "Set NX_ELABFTW_EXPERIMENT_STATUS to one of these" in found["status"][1]
    assert found["rights"][0]


def test_a_key_that_may_only_read_is_a_matter_of_configuration(
    elabftw: Destination, context: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(monkeypatch, NX_ELABFTW_API_KEY=READ_ONLY_API_KEY)
    found = findings(elabftw)
    assert found["authentication"][0]
    assert found["rights"][0] is False
    assert "may only read" in found["rights"][1]
    with pytest.raises(ConfigurationError, match="may only read"):
        elabftw.export(context)
    configured(monkeypatch, NX_ELABFTW_API_KEY=ELABFTW_API_KEY)
    elabftw.export(context)
    the_experiment(elabftw, context)


def test_a_status_that_is_not_there_is_a_matter_of_configuration(
    elabftw: Destination, context: ExportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(monkeypatch, NX_ELABFTW_EXPERIMENT_STATUS=99)
    with pytest.raises(ConfigurationError, match=r"check .*NX_ELABFTW_EXPERIMENT_STATUS"):
        elabftw.export(context)
    assert elabftw.objects == []


# --- any text

LONG = 10_000  # characters
NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</li></ul><iframe src='https://example.org'>",
    "&lt;b&gt; &amp;amp; &#60;i&#62;",
    "<!-- ", "]]>", "<", "a & b", "javascript:alert(1)",
    "tab\tand\nline\r\nbreak",
    "bell\x07 null\x00 escape\x1b[31m delete\x7f",
    "👩‍🔬🔬 µm Å 日本語",
    "\u202eright to left\u202c עברית العربية",
    "%_' \" \\ | ; --",
]  # fmt: skip
text = st.one_of(
    st.text(max_size=60), st.sampled_from(NASTY), st.sampled_from("aé🔬<\u05d0").map(lambda each: each * LONG)
)
names = text.map(lambda each: each.replace("/", ":"))


@examples(deadline=None, max_examples=80, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(session=text.filter(str.strip), instrument=text, user=st.none() | text, files=st.lists(names, max_size=3))
def test_any_text_arrives_as_text(
    elabftw: Destination, context: ExportContext, session: str, instrument: str, user: str | None, files: list[str]
) -> None:
    elabftw.server.reset()
    activities = [Activity(tuple(Path("/data", name) for name in files), (None,) * len(files))]
    record = replace(again(context), session_identifier=session, instrument_pid=instrument, user=user)
    elabftw.export(replace(record, activities=activities))
    (experiment,) = elabftw.objects
    there = {"Session ID": session, "Instrument": instrument, "User": user or ""}
    assert {name: value for name, value in fields(experiment).items() if name in there} == {
        name: value for name, value in there.items() if value
    }
    body = html.fragment_fromstring(experiment["body"], create_parent="div")
    assert {each.tag for each in body.iterdescendants()} <= {"h1", "h2", "h3", "ul", "li", "strong"}
    assert len(body.findall(".//li")) == sum(bool(each) for each in (session, instrument, user)) + 2 + len(files)
    shown = visible(experiment["body"]).text
    for value in (session, instrument, user or "", *(Path("/data", name).name for name in files)):
        assert legible(value) in shown
    assert len(experiment["title"]) <= 255
    (upload,) = experiment["uploads"]
    assert upload["sha256"] == sha256(context)


def legible(value: str) -> str:
    """As a page shows it, where control characters stand as the replacement character."""
    controls = {*range(9), 11, 12, *range(14, 32), *range(127, 160), 0xFFFE, 0xFFFF}
    return without_white_space("".join("\ufffd" if ord(each) in controls else each for each in value))


@examples(deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(session=text.filter(str.strip))
def test_the_experiment_of_any_session_is_found_again(
    elabftw: Destination, context: ExportContext, session: str
) -> None:
    elabftw.server.reset()
    record = replace(again(context), session_identifier=session)
    elabftw.fail(record, fault("504 after saving", "POST", "/experiments$"))
    elabftw.export(record)
    (experiment,) = elabftw.objects
    assert fields(experiment)["Session ID"] == session


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"session_identifier": "a\ud83d"}, "The session identifier is not valid text"),
        ({"instrument_pid": "\udc80"}, "The instrument is not valid text"),
        ({"user": "\ud83d\ud83d"}, "The name of the user is not valid text"),
        ({"user": "x" * 4_000_000}, "too long for eLabFTW"),
    ],
)
def test_what_cannot_arrive_is_refused_before_anything_is_made(
    elabftw: Destination, context: ExportContext, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(PermanentError, match=f"{said}.*in the session log, and retry") as caught:
        elabftw.export(replace(context, **changes))  # type: ignore[arg-type] # texts all
    assert len(str(caught.value)) < 500
    assert elabftw.calls == []


def test_a_file_name_that_is_no_text_is_shown_as_far_as_it_can_be(elabftw: Destination, context: ExportContext) -> None:
    elabftw.export(replace(context, activities=[Activity((Path("/data/gr\udcfc\udcdf.dm3"),), (None,))]))
    assert "gr��.dm3" in the_experiment(elabftw, context)["body"]


def test_a_list_of_files_that_is_too_long_is_cut_with_a_word(elabftw: Destination, context: ExportContext) -> None:
    many = Activity(tuple(Path(f"/data/{number:06}-{'n' * 200}.dm3") for number in range(25_000)), (None,) * 25_000)
    elabftw.export(replace(context, activities=[many]))
    body = the_experiment(elabftw, context)["body"]
    listed = body.count(".dm3</li>")
    assert 10_000 < listed < 25_000
    assert f"{25_000 - listed} more files not listed here; the attached record names every file." in body


# --- experiments and files that people have locked or put away


def test_a_locked_experiment_is_refused_for_good_and_taken_once_it_is_unlocked(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    number = elabftw.export(context).record_id or ""
    rebuild(context)
    people.change(number, action="lock")
    with pytest.raises(PermanentError, match=f"experiment {number} .*is it locked"):
        elabftw.export(context)
    people.change(number, action="lock")
    elabftw.export(context)
    assert shows(the_experiment(elabftw, context), context)


def test_a_file_that_people_have_archived_is_not_made_again(
    elabftw: Destination, context: ExportContext, people: People
) -> None:
    result = elabftw.export(context)
    upload = f"{people.base}/{result.record_id}/uploads/{result.metadata['upload_id']}"
    assert people.web.patch(upload, json={"state": 2}).status_code == 200
    rebuild(context)
    with pytest.raises(PermanentError, match=r"deleted or archived.*--recreate"):
        elabftw.export(context)
    assert [each["state"] for each in elabftw.objects[0]["uploads"]] == [2]
