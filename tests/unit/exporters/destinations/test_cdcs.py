import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportDestination,
    ExportError,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.destinations.cdcs import CDCSDestination
from tests.unit.exporters.conftest import FakeServer, Received, Reply

TEMPLATES = "/rest/template-version-manager/global/"
TEMPLATE = "/rest/template/"
WORKSPACES = "/rest/workspace/read_access/"
RECORDS = "/rest/data/"
XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:element name="Experiment" type="xs:string"/>
</xs:schema>"""


class FakeCDCS:
    """What CDCS answers: `record` is the answer to a POST, the ids are those of the template and the workspace.

    `there` is the record as the last POST has sent it.
    """

    def __init__(self) -> None:
        self.template = "41"
        self.schemas = {"41": XSD, "42": XSD}  # by template
        self.workspaces: list[dict[str, Any]] = [
            {"id": 3, "title": "Other"},
            {"id": 8, "title": "Global Public Workspace"},
        ]
        self.there: dict[str, Any] = {}
        self.record: Callable[[dict[str, Any]], Reply] = lambda _: Reply(201, '{"id": 123, "title": "x"}')

    def answer(self, received: Received) -> Reply:
        title = "Nexus Experiment Schema"
        if received.path == TEMPLATES:
            old = {"id": 1, "title": title, "is_disabled": True, "current": "7"}
            return Reply(200, json.dumps([old, {**old, "is_disabled": False, "current": self.template}]))
        if received.path == WORKSPACES:
            return Reply(200, json.dumps(self.workspaces))
        if received.path.startswith(TEMPLATE):
            xsd = self.schemas[received.path.removeprefix(TEMPLATE).rstrip("/")]
            return Reply(200, json.dumps({"content": xsd, "hash": "5fffc8063eba50cf", "format": "XSD"}))
        if received.call == f"GET {RECORDS}123/":
            return Reply(200, json.dumps(self.there))
        assert received.call == f"POST {RECORDS}"
        self.there = {**json.loads(received.body), "id": 123}
        return self.record(json.loads(received.body))


@pytest.fixture
def cdcs(server: FakeServer, configure: Callable[..., None]) -> FakeCDCS:
    configure(NX_CDCS_URL=server.url, NX_CDCS_TOKEN="t0ken")
    fake = FakeCDCS()
    server.answer = fake.answer
    return fake


def test_it_is_a_destination() -> None:
    destination = CDCSDestination()
    assert isinstance(destination, ExportDestination)
    assert (destination.name, destination.priority, destination.depends_on) == ("cdcs", 100, ())


def test_one_post_makes_the_record_in_its_workspace(server: FakeServer, cdcs: FakeCDCS, context: ExportContext) -> None:
    result = CDCSDestination().export(context)
    assert result.success
    assert result.record_id == "123"
    assert result.record_url == f"{server.url}/data?id=123"
    assert result.metadata == {
        "done": "created",
        "title": "2025-01-27_FEI-Titan-TEM-012345_2025-01-27_10-30-15_abc123",
        "template_id": "41",
        "workspace_id": "8",
    }
    assert server.received[0].query == {"title": "Nexus Experiment Schema"}
    post = server.received[-1]
    assert post.headers["authorization"] == "Token t0ken"
    assert post.headers["content-type"] == "application/json"
    sent = json.loads(post.body)
    assert sent.pop("xml_content").encode() == context.xml_file_path.read_bytes()
    assert sent == {"template": "41", "workspace": "8", "title": result.metadata["title"]}


def test_from_the_second_record_on_it_takes_one_call(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    destination = CDCSDestination()
    destination.export(context)
    server.received.clear()
    destination.export(replace(context, checkpoint=type(context.checkpoint)()))
    assert server.calls == [f"POST {RECORDS}"]


def test_a_record_that_was_made_is_not_made_again(server: FakeServer, cdcs: FakeCDCS, context: ExportContext) -> None:
    CDCSDestination().export(context)
    server.received.clear()
    result = CDCSDestination().export(context)
    assert (result.record_id, result.metadata["done"]) == ("123", "unchanged")
    assert server.calls == []


@pytest.mark.parametrize(
    ("method", "what", "refused"),
    [
        ("PATCH", "change", Reply(403)),
        (
            "PATCH",
            "change",
            Reply(403, '{"message": "The user does not have the permission to write into this workspace."}'),
        ),
        ("GET", "read", Reply(403, '{"message": "The user doesn\'t have enough rights to access this document."}')),
    ],
)
def test_a_record_that_may_not_be_changed_is_no_matter_of_configuration(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext, method: str, what: str, refused: Reply
) -> None:
    CDCSDestination().export(context)
    context.xml_file_path.write_text("<Experiment>new</Experiment>")
    good = server.answer
    server.answer = lambda received: refused if received.call == f"{method} {RECORDS}123/" else good(received)
    with pytest.raises(PermanentError, match=f"{what} record 123"):
        CDCSDestination().export(context)
    server.reply(403)
    with pytest.raises(ConfigurationError, match="NX_CDCS_TOKEN"):
        CDCSDestination().export(context)


def test_an_update_where_there_is_no_cdcs_is_a_matter_of_configuration(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    CDCSDestination().export(context)
    context.xml_file_path.write_text("<Experiment>new</Experiment>")
    server.reply(404, "<html>Not Found</html>")
    with pytest.raises(ConfigurationError, match="check NX_CDCS_URL"):
        CDCSDestination().export(context)


def test_a_user_who_lost_the_right_to_publish_is_a_matter_of_configuration_for_an_update_too(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    CDCSDestination().export(context)
    context.xml_file_path.write_text("<Experiment>new</Experiment>")
    good, refused = server.answer, Reply(403, '{"message": "The user doesn\'t have enough rights to publish."}')
    server.answer = lambda received: refused if received.method == "PATCH" else good(received)
    with pytest.raises(ConfigurationError, match="does not let the token's user publish"):
        CDCSDestination().export(context)


@pytest.mark.parametrize("method", ["POST", "GET", "PATCH"])
def test_a_404_that_is_not_of_cdcs_is_a_matter_of_configuration(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext, method: str
) -> None:
    destination = CDCSDestination()
    destination.export(context)  # which remembers template and workspace
    context.xml_file_path.write_text("<Experiment>new</Experiment>")
    good, proxy = server.answer, Reply(404, "404 page not found\n")
    server.answer = lambda received: proxy if received.method == method else good(received)
    with pytest.raises(ConfigurationError, match="There is no CDCS at the address"):
        destination.export(context if method != "POST" else replace(context, checkpoint=type(context.checkpoint)()))


def test_a_template_that_was_replaced_is_asked_for_again(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    def only_new(sent: dict[str, Any]) -> Reply:
        if sent["template"] == "42":
            return Reply(201, '{"id": 124}')
        return Reply(400, '{"message": {"template": ["Invalid pk \\"41\\" - object does not exist."]}}')

    destination = CDCSDestination()
    destination.export(replace(context, checkpoint=type(context.checkpoint)()))
    cdcs.record, cdcs.template = only_new, "42"
    assert destination.export(context).metadata["template_id"] == "42"


def test_a_template_that_stays_refused_is_a_matter_of_configuration(cdcs: FakeCDCS, context: ExportContext) -> None:
    cdcs.record = lambda _: Reply(400, '{"message": {"workspace": ["Invalid pk."]}}')
    with pytest.raises(ConfigurationError, match="NX_CDCS_TEMPLATE_TITLE"):
        CDCSDestination().export(context)


def test_titles_that_are_not_there_name_their_setting(
    cdcs: FakeCDCS, context: ExportContext, configure: Callable[..., None]
) -> None:
    cdcs.workspaces = []
    with pytest.raises(ConfigurationError, match="NX_CDCS_WORKSPACE_TITLE"):
        CDCSDestination().export(context)
    configure(NX_CDCS_TEMPLATE_TITLE="Another")
    with pytest.raises(ConfigurationError, match="NX_CDCS_TEMPLATE_TITLE"):
        CDCSDestination().export(context)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(500, '{"message": "Element Experiment: not expected."}'), PermanentError),
        (Reply(500, '{"message": "string is too long for tsvector (1100000 bytes, max 1048575)"}'), PermanentError),
        (Reply(500, '{"message": "The user doesn\'t have enough rights to publish."}'), ConfigurationError),
        (
            Reply(500, '{"message": "The user does not have the permission to write into this workspace."}'),
            ConfigurationError,
        ),
        (Reply(500, "<html><h1>Server Error (500)</h1></html>"), TransientError),
        (Reply(500), TransientError),
        (Reply(502, "<html>"), TransientError),
        (Reply(503, '{"message": "whatever"}'), TransientError),
        (Reply(429), TransientError),
        (Reply(400, '{"message": {"title": ["Too long."]}}'), PermanentError),
        (Reply(301, headers={"Location": "/rest/data"}), ConfigurationError),
        (Reply(200, "[]"), TransientError),
        (Reply(201, "<html>"), TransientError),
        (Reply(201, "{}"), TransientError),
    ],
)
def test_an_answer_that_is_no_201_is_told_apart(
    cdcs: FakeCDCS, context: ExportContext, reply: Reply, kind: type[ExportError]
) -> None:
    cdcs.record = lambda _: reply
    with pytest.raises(kind) as caught:
        CDCSDestination().export(context)
    assert "t0ken" not in str(caught.value)
    assert context.checkpoint.get("record") is None


@pytest.mark.parametrize(
    "message",
    [
        "Content is not well formatted XML.",
        "Opening and ending tag mismatch: a line 1 and b, line 1, column 8 (<string>, line 1)",
        "Element 'a': 'x' is not a valid value of the atomic type 'xs:int'., line 1",
        "Unicode strings with encoding declaration are not supported. Please use bytes input or XML fragments.",
        "cvc-complex-type.2.4.a: Invalid content was found",
        "attribute 'k' is not declared for the type of this node",
        "A string literal cannot contain NUL (0x00) characters.",
        "value too long for type character varying(200)",
        "Request body exceeded settings.DATA_UPLOAD_MAX_MEMORY_SIZE.",
        "The user doesn't have enough rights to access this document.",
    ],
)
def test_a_500_that_speaks_of_the_record_is_for_good(cdcs: FakeCDCS, context: ExportContext, message: str) -> None:
    cdcs.record = lambda _: Reply(500, json.dumps({"message": message}))
    with pytest.raises(PermanentError, match="CDCS refused the record"):
        CDCSDestination().export(context)


@pytest.mark.parametrize(
    "message",
    [
        "server closed the connection unexpectedly",
        "SSL SYSCALL error: EOF detected",
        "SSL connection has been closed unexpectedly",
        'could not translate host name "postgres" to address: Name or service not known',
        "Error -3 connecting to redis:6379. Temporary failure in name resolution.",
        "Error while reading from redis:6379 : (104, 'Connection reset by peer')",
        "canceling statement due to statement timeout",
        "could not extend file: No space left on device",
        'column core_main_app_data.xml_content does not exist, "LINE 1: SELECT"',
        "'NoneType' object has no attribute 'id'",
        "something that nobody has thought of",
    ],
)
def test_any_other_500_can_pass_and_the_record_is_looked_up_before_it_is_made_again(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext, message: str
) -> None:
    made = cdcs.record
    cdcs.record = lambda _: Reply(500, json.dumps({"message": message}))
    with pytest.raises(TransientError, match="CDCS could not answer"):
        CDCSDestination().export(context)
    cdcs.record, good = made, server.answer
    server.answer = lambda received: Reply(200, "[]") if received.path.endswith("/query/") else good(received)
    server.received.clear()
    CDCSDestination().export(context)
    assert server.calls[-2:] == [f"POST {RECORDS}query/", f"POST {RECORDS}"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_told_from_a_record_that_alone_is(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext, status: int
) -> None:
    destination = CDCSDestination()
    destination.export(replace(context, checkpoint=type(context.checkpoint)()))  # asks for the template, once
    cdcs.record = lambda _: Reply(status, "<html>blocked by rule 17</html>")
    server.received.clear()
    with pytest.raises(PermanentError, match=f"does not let us make this record .{status}.*blocked by rule 17"):
        destination.export(context)
    assert server.calls == [f"POST {RECORDS}", f"GET {WORKSPACES}"]
    server.reply(status, '{"detail": "Invalid token."}')
    with pytest.raises(ConfigurationError, match="check NX_CDCS_TOKEN"):
        destination.export(context)


def test_a_record_file_that_is_gone_is_named(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext, tmp_path: Path
) -> None:
    with pytest.raises(TransientError, match=r"gone\.xml"):
        CDCSDestination().export(replace(context, xml_file_path=tmp_path / "gone.xml"))
    assert server.calls == []


def test_a_server_that_finds_more_than_was_asked_for_leads_to_no_adoption(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    made, xml = cdcs.record, context.xml_file_path.read_text()
    good = server.answer
    others = json.dumps([{"id": 7, "title": "another", "xml_content": xml}, {"title": "no id"}, "no record"])
    server.answer = lambda received: Reply(200, others) if received.path.endswith("/query/") else good(received)
    cdcs.record = lambda _: Reply(502)
    with pytest.raises(TransientError):
        CDCSDestination().export(context)
    cdcs.record = made
    assert CDCSDestination().export(context).record_id == "123"


def test_an_address_without_cdcs_is_a_matter_of_configuration(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    server.reply(404, "<html>Not Found</html>")
    with pytest.raises(ConfigurationError, match=r"There is no CDCS at the address .* check NX_CDCS_URL"):
        CDCSDestination().export(context)


def test_its_settings_are_checked_without_network(configure: Callable[..., None]) -> None:
    destination = CDCSDestination()
    assert not CDCSDestination().enabled
    assert destination.validate_config()[0] is False
    configure(NX_CDCS_URL="https://cdcs.example.org/rest/", NX_CDCS_TOKEN="t")
    assert destination.enabled
    assert destination.validate_config() == (
        False,
        "NX_CDCS_URL must be the address of the site, without /rest at its end.",
    )
    configure(NX_CDCS_URL="https://cdcs.example.org/")
    assert destination.validate_config() == (True, None)


def only(type_name: str) -> str:
    """A schema by which the text of a record must be of this type."""
    return XSD.replace("xs:string", type_name)


def test_without_a_workspace_none_is_asked_for_or_sent(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext, configure: Callable[..., None]
) -> None:
    configure(NX_CDCS_ASSIGN_TO_PUBLIC_WORKSPACE="no")
    result = CDCSDestination().export(context)
    assert result.metadata["workspace_id"] is None
    assert json.loads(server.received[-1].body)["workspace"] is None
    assert f"GET {WORKSPACES}" not in server.calls


def test_a_record_that_is_not_valid_is_refused_by_line_before_anything_is_made(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    cdcs.schemas["41"] = only("xs:int")
    with pytest.raises(PermanentError, match=r"not sent: line 2: Element 'Experiment': 'Größe 5 µm' is not a valid"):
        CDCSDestination().export(context)
    assert f"POST {RECORDS}" not in server.calls
    assert context.checkpoint.get("record") is None


def test_a_record_is_refused_only_by_the_schema_that_holds_now(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    cdcs.schemas["41"] = only("xs:int")
    destination = CDCSDestination()
    with pytest.raises(PermanentError):
        destination.export(context)
    cdcs.template = "42"  # the template was changed, and what is remembered of it is out of date
    assert destination.export(context).metadata["template_id"] == "42"


def test_a_record_that_an_older_try_has_made_is_found_before_its_new_content_is_refused(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    there = {
        "id": 123,
        "title": "2025-01-27_FEI-Titan-TEM-012345_2025-01-27_10-30-15_abc123",
        "xml_content": f"<Experiment><id>{context.session_identifier}</id></Experiment>",
    }
    good, lost = server.answer, Reply(502)
    cdcs.record = lambda _: lost
    with pytest.raises(TransientError):
        CDCSDestination().export(context)
    context.xml_file_path.write_text(f"<Other><id>{context.session_identifier}</id></Other>")
    replies = {
        f"POST {RECORDS}query/": Reply(200, json.dumps([there])),
        "GET /rest/data/123/": Reply(200, json.dumps({**there, "template": 41})),
    }
    server.answer = lambda received: replies.get(received.call) or good(received)
    with pytest.raises(PermanentError, match="not sent"):
        CDCSDestination().export(context)
    assert context.checkpoint.get("record") == "123"
    assert "PATCH /rest/data/123/" not in server.calls


@pytest.mark.parametrize("belongs_to", ["41", "42"])
def test_an_update_is_judged_by_the_version_that_its_record_belongs_to(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext, belongs_to: str
) -> None:
    cdcs.schemas["42"] = only("xs:int")
    CDCSDestination().export(context)
    context.xml_file_path.write_text("<Experiment>new</Experiment>")
    cdcs.template, good = "42", server.answer
    replies = {
        "GET /rest/data/123/": Reply(200, json.dumps({**cdcs.there, "template": int(belongs_to)})),
        "PATCH /rest/data/123/": Reply(200, '{"id": 123, "xml_content": ""}'),
    }
    server.answer = lambda received: replies.get(received.call) or good(received)
    if belongs_to == "41":
        assert CDCSDestination().export(context).metadata["done"] == "updated"
    else:
        with pytest.raises(PermanentError, match="'new' is not a valid value"):
            CDCSDestination().export(context)
        assert "PATCH /rest/data/123/" not in server.calls


def test_an_update_that_is_not_valid_of_a_record_that_is_gone_says_that_it_is_gone(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    CDCSDestination().export(context)
    context.xml_file_path.write_text("<Other/>")
    good = server.answer
    gone = Reply(404, '{"message": "Data not found."}')
    server.answer = lambda received: gone if received.path == "/rest/data/123/" else good(received)
    with pytest.raises(PermanentError, match="--recreate"):
        CDCSDestination().export(context)


def test_a_schema_that_cannot_be_compiled_here_leaves_it_to_cdcs(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext, caplog: pytest.LogCaptureFixture
) -> None:
    cdcs.schemas["41"] = XSD.replace("<xs:element", '<xs:include schemaLocation="http://127.0.0.1:1/x"/><xs:element')
    destination = CDCSDestination()
    for _ in range(2):
        assert destination.export(replace(context, checkpoint=type(context.checkpoint)())).success
    assert caplog.text.count("CDCS alone validates the records") == 1


def test_a_schema_that_is_not_shown_leaves_it_to_cdcs(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    good, refused = server.answer, Reply(403, '{"message": "The user does not have enough rights."}')
    server.answer = lambda received: refused if received.path.startswith(TEMPLATE) else good(received)
    destination = CDCSDestination()
    destination.export(context)
    server.received.clear()
    destination.export(replace(context, checkpoint=type(context.checkpoint)()))
    assert server.calls == [f"POST {RECORDS}"]  # it is not asked for each time


def test_a_schema_that_cannot_be_had_for_the_moment_is_waited_for(
    server: FakeServer, cdcs: FakeCDCS, context: ExportContext
) -> None:
    good = server.answer
    server.answer = lambda received: Reply(503) if received.path.startswith(TEMPLATE) else good(received)
    with pytest.raises(TransientError):
        CDCSDestination().export(context)
    assert f"POST {RECORDS}" not in server.calls


def test_a_template_that_is_disabled_is_named(server: FakeServer, cdcs: FakeCDCS, context: ExportContext) -> None:
    disabled = [{"id": 1, "title": "Nexus Experiment Schema", "is_disabled": True, "current": "7"}]
    server.reply(200, json.dumps(disabled))
    with pytest.raises(ConfigurationError, match=r"is disabled in CDCS: enable it .* NX_CDCS_TEMPLATE_TITLE"):
        CDCSDestination().export(context)
