import json
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportDestination,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.destinations.elabftw import ELabFTWDestination
from tests.unit.exporters.conftest import FakeServer, Received, Reply

CREATE = "POST /api/v2/experiments"
UPLOAD = "POST /api/v2/experiments/57/uploads"
PATCH = "PATCH /api/v2/experiments/57"
INFO = "GET /api/v2/info"
SEARCH = "GET /api/v2/experiments"
READ = "GET /api/v2/experiments/57"
UPLOADS = "GET /api/v2/experiments/57/uploads"
TEAM = "GET /api/v2/teams/current"
GONE = '{"code": 404, "message": "Resource Not Found", "description": "The resource was not found."}'


def holding(session: str) -> dict[str, Any]:
    """An experiment that names its session, and holds nothing else."""
    return {"id": 57, "metadata": json.dumps({"extra_fields": {"Session ID": {"value": session}}}), "body": ""}


class FakeELabFTW:
    """What eLabFTW answers, by call."""

    def __init__(self) -> None:
        base = "https://elsewhere.example.org/api/v2/experiments/57"
        self.replies: dict[str, Reply] = {
            INFO: Reply(200, '{"elabftw_version_int": 50311}'),
            CREATE: Reply(201, headers={"Location": base}),
            UPLOAD: Reply(201, headers={"Location": f"{base}/uploads/301"}),
            PATCH: Reply(200, "{}"),
            READ: Reply(200, json.dumps(holding("2025-01-27_10-30-15_abc123"))),
            SEARCH: Reply(200, "[]"),
            UPLOADS: Reply(200, "[]"),
            TEAM: Reply(200, '{"force_exp_tpl": 0}'),
        }

    def answer(self, received: Received) -> Reply:
        return self.replies[received.call]


@pytest.fixture
def elabftw(server: FakeServer, configure: Callable[..., None]) -> FakeELabFTW:
    configure(NX_ELABFTW_URL=server.url, NX_ELABFTW_API_KEY="7-k3y")
    fake = FakeELabFTW()
    server.answer = fake.answer
    return fake


def sent(server: FakeServer, call: str) -> dict[str, Any]:
    (received,) = [received for received in server.received if received.call == call]
    values: dict[str, Any] = json.loads(received.body)
    return values


def test_it_is_a_destination() -> None:
    destination = ELabFTWDestination()
    assert isinstance(destination, ExportDestination)
    assert (destination.name, destination.priority, destination.depends_on) == ("elabftw", 85, ("cdcs",))


def test_an_experiment_holds_the_summary_tags_and_fields(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext, configure: Callable[..., None]
) -> None:
    configure(NX_ELABFTW_EXPERIMENT_CATEGORY=4, NX_ELABFTW_EXPERIMENT_STATUS=2)
    link = "https://cdcs.example.org/data?id=5"
    context.previous_results["cdcs"] = ExportResult(success=True, destination_name="cdcs", record_url=link)
    result = ELabFTWDestination().export(context)
    assert result.success
    assert result.record_id == "57"
    assert result.record_url == f"{server.url}/experiments.php?mode=view&id=57"
    assert result.metadata == {"done": "created", "upload_id": "301", "cdcs_url": link}
    experiment = sent(server, CREATE)
    assert experiment["title"] == "NexusLIMS Experiment - 2025-01-27_10-30-15_abc123"
    assert experiment["body"].startswith("<h1>NexusLIMS Microscopy Session</h1>")
    assert link in experiment["body"]
    assert experiment["tags"] == ["NexusLIMS", "FEI-Titan-TEM-012345", "jsmith"]
    assert (experiment["category"], experiment["status"]) == (4, 2)
    fields = experiment["metadata"]["extra_fields"]
    assert {name: (field["type"], field["value"]) for name, field in fields.items()} == {
        "Session ID": ("text", "2025-01-27_10-30-15_abc123"),
        "Instrument": ("text", "FEI-Titan-TEM-012345"),
        "User": ("text", "jsmith"),
        "Start": ("datetime-local", "2025-01-27T10:30:15"),
        "End": ("datetime-local", "2025-01-27T14:45:00"),
        "CDCS URL": ("url", link),
    }
    assert fields["Start"]["description"] == "2025-01-27T10:30:15-05:00"
    assert [field["position"] for field in fields.values()] == [1, 2, 3, 4, 5, 6]


def test_what_is_not_known_is_left_out(server: FakeServer, elabftw: FakeELabFTW, context: ExportContext) -> None:
    ELabFTWDestination().export(replace(context, user=None))
    experiment = sent(server, CREATE)
    assert experiment["tags"] == ["NexusLIMS", "FEI-Titan-TEM-012345"]
    assert set(experiment["metadata"]["extra_fields"]) == {"Session ID", "Instrument", "Start", "End"}
    assert not {"category", "status"} & experiment.keys()


def test_titles_and_tags_are_such_that_elabftw_takes_them(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    odd = replace(context, session_identifier="a\nb" + "c" * 300, instrument_pid="a|b", user=" NexusLIMS ")
    ELabFTWDestination().export(odd)
    experiment = sent(server, CREATE)
    assert len(experiment["title"]) == 255
    assert "\n" not in experiment["title"]
    assert experiment["tags"] == ["NexusLIMS", "a b"]


def test_a_title_and_a_tag_hold_no_control_characters_and_end_with_no_space(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    odd = replace(
        context, session_identifier="a\x07" + "b" * 230 + " c", instrument_pid="\x1b\\", user="d" * 254 + " e"
    )
    ELabFTWDestination().export(odd)
    experiment = sent(server, CREATE)
    assert experiment["title"] == "NexusLIMS Experiment - a" + "b" * 230
    assert experiment["tags"] == ["NexusLIMS", "d" * 254]


def test_requests_have_the_headers_that_elabftw_wants(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    ELabFTWDestination().export(context)
    headers = {received.call: received.headers for received in server.received}
    assert all(each["authorization"] == "7-k3y" for each in headers.values())
    assert headers[CREATE]["content-type"] == "application/json"
    assert headers[UPLOAD]["content-type"].startswith("multipart/form-data; boundary=")


def test_the_record_is_attached_whole_even_at_a_second_try(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    good, elabftw.replies[UPLOAD] = elabftw.replies[UPLOAD], Reply(503)
    destination = ELabFTWDestination()
    with pytest.raises(TransientError):
        destination.export(context)
    elabftw.replies[UPLOAD] = good
    destination.export(context)
    assert server.calls == [INFO, CREATE, UPLOAD, READ, UPLOADS, UPLOAD]
    for received in [server.received[2], server.received[5]]:
        assert context.xml_file_path.read_bytes() in received.body
        assert b'name="comment"' in received.body
        assert b'filename="2025-01-27_FEI-Titan-TEM-012345_2025-01-27_10-30-15_abc123.xml"' in received.body


def test_from_the_second_record_on_it_takes_two_calls(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    destination = ELabFTWDestination()
    destination.export(context)
    server.received.clear()
    destination.export(replace(context, checkpoint=type(context.checkpoint)()))
    assert server.calls == [CREATE, UPLOAD]
    assert len(server.connections) == 1


def test_an_old_release_gets_body_and_metadata_in_a_patch(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    elabftw.replies[INFO] = Reply(200, '{"elabftw_version_int": 50100}')
    ELabFTWDestination().export(context)
    patch = sent(server, PATCH)
    assert patch["body"].startswith("<h1>")
    assert json.loads(patch["metadata"])["extra_fields"]["Session ID"]["value"] == context.session_identifier


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(400, '{"code": 400, "message": "Bad Request", "description": "Tag refused"}'), PermanentError),
        (Reply(400, '{"code": 400, "message": "Bad Request", "description": "Body too big"}'), PermanentError),
        (Reply(500), TransientError),
        (Reply(429), TransientError),
        (Reply(201), TransientError),
        (Reply(201, headers={"Location": "/login"}), TransientError),
    ],
)
def test_a_refused_experiment_is_told_apart(
    elabftw: FakeELabFTW, context: ExportContext, reply: Reply, kind: type[ExportError]
) -> None:
    elabftw.replies[CREATE] = reply
    with pytest.raises(kind):
        ELabFTWDestination().export(context)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_told_from_an_experiment_that_alone_is(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext, status: int
) -> None:
    destination = ELabFTWDestination()
    elabftw.replies[CREATE] = Reply(status, "<html>blocked by rule 17</html>")
    with pytest.raises(PermanentError, match=f"does not let us make this experiment .{status}.*blocked by rule 17"):
        destination.export(context)
    assert server.calls == [INFO, CREATE, INFO]
    server.reply(status, '{"code": 401, "message": "Unauthorized", "description": "No key"}')
    with pytest.raises(ConfigurationError, match="check NX_ELABFTW_API_KEY"):
        destination.export(context)


def test_an_experiment_that_a_refusal_has_left_behind_is_adopted(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    elabftw.replies[CREATE] = Reply(400, '{"code": 400, "message": "Bad Request", "description": "Tag refused"}')
    elabftw.replies[SEARCH] = Reply(200, json.dumps([holding(context.session_identifier)]))
    assert ELabFTWDestination().export(context).record_id == "57"
    assert sent(server, PATCH)["body"].startswith("<h1>")


def test_a_search_holds_nothing_that_could_break_it(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    elabftw.replies[CREATE] = Reply(502)
    odd = replace(context, session_identifier="""50%_"a" 'b' c\\d""")
    for _ in range(2):
        with pytest.raises(TransientError):
            ELabFTWDestination().export(odd)
    (search,) = [received for received in server.received if received.call == SEARCH]
    assert search.query == {
        "extended": 'extrafield:s:"Session ID":"50%_%a% %b% c%d"',
        "scope": "3",
        "state": "1",
        "limit": "50",
        "offset": "0",
    }


def test_a_search_for_a_long_identifier_is_short(
    server: FakeServer, elabftw: FakeELabFTW, context: ExportContext
) -> None:
    elabftw.replies[CREATE] = Reply(502)
    long = replace(context, session_identifier="🔬" * 10_000)
    for _ in range(2):
        with pytest.raises(TransientError):
            ELabFTWDestination().export(long)
    (search,) = [received for received in server.received if received.call == SEARCH]
    assert search.query["extended"] == f'extrafield:s:"Session ID":"{"🔬" * 50}%{"🔬" * 50}"'


def test_a_key_that_is_refused_everywhere_is_a_matter_of_configuration(
    elabftw: FakeELabFTW, context: ExportContext
) -> None:
    destination = ELabFTWDestination()
    elabftw.replies[UPLOAD] = Reply(503)
    with pytest.raises(TransientError):
        destination.export(context)
    elabftw.replies[UPLOAD] = elabftw.replies[INFO] = Reply(401)
    with pytest.raises(ConfigurationError, match="NX_ELABFTW_API_KEY"):
        destination.export(context)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(401), "is it locked"),
        (Reply(403), "is it locked"),
        (Reply(404, GONE), "deleted"),
        (Reply(422), "archived"),
    ],
)
def test_an_experiment_that_cannot_be_changed_is_no_matter_of_configuration(
    elabftw: FakeELabFTW, context: ExportContext, reply: Reply, said: str
) -> None:
    elabftw.replies[UPLOAD] = reply
    with pytest.raises(PermanentError, match=said):
        ELabFTWDestination().export(context)


@pytest.mark.parametrize(
    "body", ["", "404 page not found\n", "<html>nginx</html>", '{"message": "no Route matched with those values"}']
)
@pytest.mark.parametrize("call", [CREATE, UPLOAD])
def test_a_404_that_is_not_elabftws_own_is_a_matter_of_configuration(
    elabftw: FakeELabFTW, context: ExportContext, call: str, body: str
) -> None:
    elabftw.replies[call] = Reply(404, body)
    with pytest.raises(ConfigurationError, match=r"no eLabFTW at the address.*check NX_ELABFTW_URL"):
        ELabFTWDestination().export(context)


def test_an_address_without_elabftw_is_a_matter_of_configuration(elabftw: FakeELabFTW, context: ExportContext) -> None:
    elabftw.replies[INFO] = Reply(404)
    with pytest.raises(ConfigurationError, match="check NX_ELABFTW_URL"):
        ELabFTWDestination().export(context)


# --- checks

USER = "GET /api/v2/users/me"
KEYS = "GET /api/v2/apikeys"
CATEGORIES = "GET /api/v2/teams/current/experiments_categories"


def check(name: str) -> str:
    """What one check finds; the others are not made."""
    (found,) = [each for each in ELabFTWDestination().checks() if each.name == name]
    return found.look()


def answering(body: str, **headers: str) -> Reply:
    return Reply(200, body, headers)


def test_what_must_hold_for_the_other_checks_is_needed(elabftw: FakeELabFTW, configure: Callable[..., None]) -> None:
    configure(NX_ELABFTW_EXPERIMENT_CATEGORY=4, NX_ELABFTW_EXPERIMENT_STATUS=2)
    assert [(each.name, each.needed) for each in ELabFTWDestination().checks()] == [
        ("reachable", True),
        ("authentication", True),
        ("category", False),
        ("status", False),
        ("rights", False),
        ("clock", False),
    ]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (Reply(200, '{"elabftw_version": "5.2.1", "elabftw_version_int": 50201}'), "release 5.2.1"),
        (
            Reply(401, '{"code": 401, "message": "Unauthorized", "description": "No key"}'),
            "it answers; its release it tells only with the right key",
        ),
    ],
)
def test_an_elabftw_is_reachable_with_any_key(elabftw: FakeELabFTW, reply: Reply, found: str) -> None:
    elabftw.replies[INFO] = reply
    assert check("reachable") == found


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(404), ConfigurationError, "There is no eLabFTW at the address.*check NX_ELABFTW_URL"),
        (Reply(200, "<html>welcome</html>"), ConfigurationError, "There is no eLabFTW at the address"),
        (Reply(200, '{"name": "another program"}'), ConfigurationError, "There is no eLabFTW at the address"),
        (Reply(401, "<html>log in</html>"), ConfigurationError, "does not let us in"),
        (
            Reply(200, '{"elabftw_version": "4.9.0", "elabftw_version_int": 40900}'),
            ConfigurationError,
            r"release 4\.9\.0: nexus-tasks needs 5\.0 or newer",
        ),
        (Reply(301, headers={"Location": "https://example.org"}), ConfigurationError, "check NX_ELABFTW_URL"),
        (Reply(503), TransientError, "could not answer"),
    ],
)
def test_what_is_no_elabftw_is_not_reachable(
    elabftw: FakeELabFTW, reply: Reply, kind: type[ExportError], said: str
) -> None:
    elabftw.replies[INFO] = reply
    with pytest.raises(kind, match=said):
        check("reachable")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            '{"fullname": "A B", "team": 2, "teams": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]}',
            "as A B, team y",
        ),
        ('{"userid": 3, "fullname": "A B"}', "as A B"),
        ('{"userid": 3, "teams": "[]"}', "as user 3"),
    ],
)
def test_authentication_names_user_and_team_as_far_as_they_are_told(
    elabftw: FakeELabFTW, body: str, found: str
) -> None:
    elabftw.replies[USER] = answering(body)
    assert check("authentication") == found


def test_a_wrong_key_is_told_without_repeating_it(elabftw: FakeELabFTW) -> None:
    elabftw.replies[USER] = Reply(401, '{"code": 401, "message": "Unauthorized", "description": "bad key 7-k3y"}')
    with pytest.raises(ConfigurationError, match="check NX_ELABFTW_API_KEY") as caught:
        check("authentication")
    assert "7-k3y" not in str(caught.value)


def test_a_category_is_looked_up_in_the_team(elabftw: FakeELabFTW, configure: Callable[..., None]) -> None:
    configure(NX_ELABFTW_EXPERIMENT_CATEGORY=4)
    elabftw.replies[CATEGORIES] = answering('[{"id": 3, "title": "a"}, {"id": 4, "title": "b"}]')
    assert check("category") == "4 (b)"
    elabftw.replies[CATEGORIES] = answering("[]")
    with pytest.raises(ConfigurationError, match="no experiment category 4; it has none"):
        check("category")
    many = [{"id": number, "title": f"c{number}"} for number in range(100, 130)]
    elabftw.replies[CATEGORIES] = answering(json.dumps(many))
    with pytest.raises(ConfigurationError, match=r"107 \(c107\), and others"):
        check("category")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('[{"id": 6, "can_write": 0}, {"id": 7, "can_write": 1}]', "the key may write"),
        ('[{"id": 6, "can_write": 1}]', "it does not tell whether the key may write"),
    ],
)
def test_rights_are_those_of_the_key_in_use(elabftw: FakeELabFTW, body: str, found: str) -> None:
    elabftw.replies[KEYS] = answering(body)
    assert check("rights") == found


def test_a_key_that_may_only_read_has_no_rights(elabftw: FakeELabFTW) -> None:
    elabftw.replies[KEYS] = answering('[{"id": 7, "can_write": 0}]')
    with pytest.raises(ConfigurationError, match="may only read"):
        check("rights")


def test_a_clock_that_is_wrong_is_told(server: FakeServer, elabftw: FakeELabFTW) -> None:
    assert check("clock").endswith(" s apart")

    def yesterday(handler: Any) -> None:
        body = b'{"elabftw_version_int": 50311}'
        date = formatdate(time.time() - 86_400, usegmt=True).encode()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b" % (date, len(body), body))

    server.answer = lambda _: yesterday
    with pytest.raises(ConfigurationError, match=r"The clock of eLabFTW is 86.* s behind ours"):
        check("clock")


def test_its_settings_are_checked_without_network(configure: Callable[..., None]) -> None:
    destination = ELabFTWDestination()
    assert not ELabFTWDestination().enabled
    configure(NX_ELABFTW_URL="https://elab.example.org/api/v2")
    assert destination.validate_config() == (
        False,
        "NX_ELABFTW_API_KEY is missing: eLabFTW needs NX_ELABFTW_URL and NX_ELABFTW_API_KEY.",
    )
    configure(NX_ELABFTW_API_KEY="7-key")
    assert destination.enabled
    assert destination.validate_config() == (
        False,
        "NX_ELABFTW_URL must be the address of the site, without /api/v2 at its end.",
    )
    configure(NX_ELABFTW_URL="https://elab.example.org")
    assert destination.validate_config() == (True, None)
