import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_tasks.exporters.base import ConfigurationError, ExportContext, PermanentError, TransientError
from nexus_tasks.exporters.cdcs.api import CdcsApi, NewRecord
from nexus_tasks.exporters.checkup import check_up
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.title import record_title
from nexus_tasks.sandbox.real_cdcs.server import ADMINISTRATOR, CURATOR, TEMPLATE_TITLE, RealCdcs
from tests.acceptance.test_pages import page
from tests.live.conftest import VISITOR, Exporter, LosingProxy, Person, forget, rebuild, record_xml

CREATE = ("POST", "/rest/data/")
PUBLIC = "Global Public Workspace"
INVALID = b'<Experiment xmlns="https://data.nist.gov/od/dm/nexus/experiment/v1.0"><nonsense/></Experiment>'


def test_a_record_stands_in_the_public_workspace_byte_for_byte(
    exporter: Exporter, context: ExportContext, curator: Person
) -> None:
    result = exporter.export(context)

    [record] = curator.records(record_title(context))
    assert result.record_id == str(record["id"])
    workspaces = {each["id"]: each["title"] for each in curator.call("GET", "rest/workspace/read_access/")}
    assert workspaces[record["workspace"]] == PUBLIC
    assert curator.content(result.record_id) == context.xml_file_path.read_bytes()
    assert result.metadata["done"] == "created"


def test_it_belongs_to_the_current_version_of_the_template(
    exporter: Exporter, context: ExportContext, curator: Person
) -> None:
    result = exporter.export(context)
    [manager] = curator.call("GET", f"rest/template-version-manager/global/?title={TEMPLATE_TITLE}")
    assert len(manager["versions"]) == 2
    assert result.metadata["template_id"] == manager["current"] == manager["versions"][1]


def test_a_record_whose_answer_was_lost_is_adopted(
    exporter: Exporter, context: ExportContext, curator: Person, proxy: LosingProxy
) -> None:
    exporter.use(NX_CDCS_URL=proxy.url)
    proxy.lose.append(CREATE)
    with pytest.raises(TransientError):
        exporter.export(context)
    assert proxy.lost == [(*CREATE, 201)]

    result = exporter.export(context)

    [record] = curator.records(record_title(context))
    assert (result.record_id, result.metadata["done"]) == (str(record["id"]), "unchanged")


def test_a_rebuilt_record_is_adopted_and_brought_up_to_date(
    exporter: Exporter, context: ExportContext, curator: Person, proxy: LosingProxy
) -> None:
    exporter.use(NX_CDCS_URL=proxy.url)
    proxy.lose.append(CREATE)
    with pytest.raises(TransientError):
        exporter.export(context)
    second = rebuild(context)

    result = exporter.export(context)

    [record] = curator.records(record_title(context))
    assert (result.record_id, result.metadata["done"]) == (str(record["id"]), "updated")
    assert curator.content(result.record_id) == second


def test_a_rebuilt_record_is_changed_in_place(exporter: Exporter, context: ExportContext, curator: Person) -> None:
    first = exporter.export(context)
    content = rebuild(context)

    second = exporter.export(context)

    assert (second.record_id, second.metadata["done"]) == (first.record_id, "updated")
    assert curator.content(first.record_id) == content
    assert len(curator.records(record_title(context))) == 1


def test_a_change_whose_answer_was_lost_is_made_again(
    exporter: Exporter, context: ExportContext, curator: Person, proxy: LosingProxy
) -> None:
    exporter.use(NX_CDCS_URL=proxy.url)
    number = exporter.export(context).record_id
    content = rebuild(context)
    proxy.lose.append(("PATCH", f"/rest/data/{number}/"))
    with pytest.raises(TransientError):
        exporter.export(context)

    assert exporter.export(context).record_id == number
    assert curator.content(number) == content


@pytest.mark.parametrize("content", [INVALID, b"<Experiment", b"<a/>"], ids=["invalid", "cut off", "foreign"])
def test_an_invalid_record_is_refused_with_the_reason_and_not_saved(
    exporter: Exporter, context: ExportContext, curator: Person, content: bytes
) -> None:
    context.xml_file_path.write_bytes(content)
    with pytest.raises(PermanentError, match="line 1"):
        exporter.export(context)
    assert curator.records(record_title(context)) == []


def test_an_invalid_change_is_refused_and_the_record_stays_as_it_was(
    exporter: Exporter, context: ExportContext, curator: Person
) -> None:
    before = context.xml_file_path.read_bytes()
    number = exporter.export(context).record_id
    context.xml_file_path.write_bytes(INVALID)
    with pytest.raises(PermanentError, match="line 1"):
        exporter.export(context)
    assert curator.content(number) == before


@pytest.mark.parametrize("content", [INVALID, b"<Experiment"], ids=["invalid", "cut off"])
def test_what_cdcs_itself_refuses_is_permanent_too(
    exporter: Exporter, server: RealCdcs, curator: Person, content: bytes
) -> None:
    """Where its schema cannot be used by us, it is the only one who validates."""
    api = CdcsApi(server.url, CURATOR.token, ShortMemory())
    template, workspace = api.current_template(TEMPLATE_TITLE), str(api.workspace(PUBLIC)["id"])
    with pytest.raises(PermanentError, match="refused the record"):
        api.create(NewRecord("refused", content, template, workspace))
    assert curator.records("refused") == []


def test_a_wrong_token_is_a_configuration_error_that_does_not_repeat_it(
    exporter: Exporter, context: ExportContext
) -> None:
    exporter.use(NX_CDCS_TOKEN="a-token-that-nobody-has")
    with pytest.raises(ConfigurationError, match="NX_CDCS_TOKEN") as raised:
        exporter.export(context)
    assert "a-token-that-nobody-has" not in str(raised.value)


def test_a_user_who_may_not_publish_is_a_configuration_error(
    exporter: Exporter, context: ExportContext, administrator: Person
) -> None:
    exporter.use(VISITOR)
    with pytest.raises(ConfigurationError, match="user's rights"):
        exporter.export(context)
    assert administrator.records(record_title(context)) == []


@pytest.fixture(scope="module")
def group(administrator: Person) -> Callable[..., str]:
    """Makes private workspaces that the curator may read, and write to if so said."""

    def make(title: str, *, write: bool) -> str:
        number = administrator.call("POST", "rest/workspace/", {"title": title})["id"]
        curator = administrator.user_id(CURATOR.name)
        for right in ["read", "write"] if write else ["read"]:
            administrator.call("PATCH", f"rest/workspace/{number}/add_{right}_right_to_user/{curator}/")
        return str(number)

    return make


def test_the_workspace_is_chosen_by_its_title(
    exporter: Exporter, context: ExportContext, curator: Person, group: Callable[..., str]
) -> None:
    number = group("A group that writes", write=True)
    exporter.use(NX_CDCS_WORKSPACE_TITLE="A group that writes")
    result = exporter.export(context)
    [record] = curator.records(record_title(context))
    assert str(record["workspace"]) == result.metadata["workspace_id"] == number


def test_a_workspace_that_may_only_be_read_is_a_configuration_error(
    exporter: Exporter, context: ExportContext, administrator: Person, group: Callable[..., str]
) -> None:
    group("A group that reads", write=False)
    exporter.use(NX_CDCS_WORKSPACE_TITLE="A group that reads")
    with pytest.raises(ConfigurationError, match="NX_CDCS_WORKSPACE_TITLE"):
        exporter.export(context)
    assert administrator.records(record_title(context)) == []


@pytest.mark.parametrize("setting", ["NX_CDCS_TEMPLATE_TITLE", "NX_CDCS_WORKSPACE_TITLE"])
def test_an_unknown_title_is_a_configuration_error(exporter: Exporter, context: ExportContext, setting: str) -> None:
    exporter.use(CURATOR, **{setting: "There is none of this title"})
    with pytest.raises(ConfigurationError, match=f"There is none of this title.*{setting}"):
        exporter.export(context)


def test_without_a_workspace_a_record_is_private(
    exporter: Exporter, context: ExportContext, curator: Person, administrator: Person, server: RealCdcs
) -> None:
    exporter.use(NX_CDCS_ASSIGN_TO_PUBLIC_WORKSPACE="no")
    number = exporter.export(context).record_id
    assert curator.call("GET", f"rest/data/{number}/")["workspace"] is None
    visitor = Person(server, VISITOR)
    assert visitor.records(record_title(context)) == []


def test_a_record_of_five_megabytes_arrives(exporter: Exporter, context: ExportContext, curator: Person) -> None:
    content = record_xml(context.session_identifier, motivation="why " * 1_250_000)
    context.xml_file_path.write_bytes(content)
    assert len(content) > 5_000_000
    assert curator.content(exporter.export(context).record_id) == content


# --- a record that was given to somebody else


def test_a_record_that_belongs_to_somebody_else_cannot_be_changed_and_the_error_says_so(
    exporter: Exporter, context: ExportContext, administrator: Person
) -> None:
    number = exporter.export(context).record_id
    administrator.give(number, ADMINISTRATOR.name)
    rebuild(context)
    with pytest.raises(PermanentError, match=f"record {number}.*somebody else"):
        exporter.export(context)
    exporter.use(ADMINISTRATOR)
    assert exporter.export(context).metadata["done"] == "updated"


def test_a_record_that_belongs_to_somebody_else_is_still_found(
    exporter: Exporter, context: ExportContext, administrator: Person, proxy: LosingProxy
) -> None:
    exporter.use(NX_CDCS_URL=proxy.url)
    proxy.lose.append(CREATE)
    with pytest.raises(TransientError):
        exporter.export(context)
    [record] = administrator.records(record_title(context))
    administrator.give(record["id"], ADMINISTRATOR.name)

    assert exporter.export(context).record_id == str(record["id"])
    assert len(administrator.records(record_title(context))) == 1


def test_the_same_title_may_stand_over_two_records(exporter: Exporter, context: ExportContext, curator: Person) -> None:
    first = exporter.export(context).record_id
    forget(context)
    second = exporter.export(context).record_id
    assert [str(record["id"]) for record in curator.records(record_title(context))] == [first, second]


# --- NX_CDCS_USER_OWNED_RECORDS


@pytest.mark.parametrize("user", [VISITOR.name, "somebody-new"], ids=["known to CDCS", "not known to CDCS"])
def test_an_administrator_can_give_the_record_to_its_user_and_goes_on_changing_it(
    exporter: Exporter, context: ExportContext, administrator: Person, user: str
) -> None:
    context.user = user
    exporter.use(ADMINISTRATOR, NX_CDCS_USER_OWNED_RECORDS="yes")
    number = exporter.export(context).record_id
    assert administrator.owner(number) == user

    content = rebuild(context)
    assert exporter.export(context).record_id == number
    assert administrator.content(number) == content
    assert administrator.owner(number) == user


def test_without_an_administrators_token_the_record_stays_and_the_result_says_why(
    exporter: Exporter, context: ExportContext, administrator: Person
) -> None:
    context.user = VISITOR.name
    exporter.use(NX_CDCS_USER_OWNED_RECORDS="yes")
    result = exporter.export(context)
    assert result.success
    assert "administrator" in result.metadata["owner"]["problem"]
    assert administrator.owner(result.record_id) == CURATOR.name


# --- checks


def findings(exporter: Exporter) -> dict[str, tuple[bool | None, str]]:
    return {finding.name: (finding.ok, finding.message) for finding in check_up(exporter.plugin)}


def test_every_check_is_fine_where_everything_is_right(exporter: Exporter) -> None:
    exporter.use(ADMINISTRATOR, NX_CDCS_USER_OWNED_RECORDS="yes")
    found = findings(exporter)
    assert {name for name, (ok, _) in found.items() if not ok} == set(), found
    assert "2.23.0" in found["authentication"][1]
    assert found.keys() >= {"reachable", "authentication", "template", "schema", "workspace", "ownership", "clock"}


@pytest.mark.parametrize(
    ("setting", "value", "wrong"),
    [
        ("NX_CDCS_URL", "http://127.0.0.1:9", "reachable"),
        ("NX_CDCS_TOKEN", "a-token-that-nobody-has", "authentication"),
        ("NX_CDCS_TEMPLATE_TITLE", "There is none of this title", "template"),
        ("NX_CDCS_WORKSPACE_TITLE", "There is none of this title", "workspace"),
        ("NX_CDCS_USER_OWNED_RECORDS", "yes", "ownership"),  # with the curator's token
    ],
)
def test_a_check_names_the_setting_that_is_wrong(exporter: Exporter, setting: str, value: str, wrong: str) -> None:
    exporter.use(CURATOR, **{setting: value})
    ok, message = findings(exporter)[wrong]
    assert ok is False
    assert setting in message


def test_checks_change_nothing(exporter: Exporter, administrator: Person) -> None:
    exporter.use(ADMINISTRATOR, NX_CDCS_USER_OWNED_RECORDS="yes")
    before = administrator.call("GET", "rest/admin/data/"), administrator.call("GET", "rest/user/")
    findings(exporter)
    assert (administrator.call("GET", "rest/admin/data/"), administrator.call("GET", "rest/user/")) == before


# --- what people see


def test_the_link_shows_the_record_to_everybody_and_runs_nothing_that_a_lab_wrote(
    exporter: Exporter, context: ExportContext, tmp_path: Path
) -> None:
    mark = "marked-by-a-script"
    text = f"A title <script>document.documentElement.setAttribute('data-x', '{mark}')</script>"
    rebuild(context, text)
    url = exporter.export(context).record_url
    assert url is not None
    dom = page(url, tmp_path / "profile")
    assert record_title(context) in dom
    assert context.session_identifier in dom
    assert not re.search(rf"<html[^>]*{mark}", dom)


# --- a site that has given up the older name of the document


def test_a_site_that_calls_the_document_content_gets_it_too(
    cdcs_python: Path, servers_folder: Path, exporter: Exporter, context: ExportContext
) -> None:
    settings = {"BACKWARD_COMPATIBILITY_DATA_XML_CONTENT": False}
    with RealCdcs(servers_folder / "cdcs-newer", cdcs_python, settings=settings) as newer:
        exporter.use(NX_CDCS_URL=newer.url)
        curator = Person(newer, CURATOR)
        number = exporter.export(context).record_id
        assert curator.content(number) == context.xml_file_path.read_bytes()
        content = rebuild(context)
        exporter.plugin = type(exporter.plugin)()  # which has not met this site yet
        assert exporter.export(context).record_id == number
        assert curator.content(number) == content
        assert len(curator.records(record_title(context))) == 1
