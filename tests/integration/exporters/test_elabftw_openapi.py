"""The exporter's calls, the stand-in's answers and the traffic of eLabFTW's own client, against the OpenAPI file."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import requests
from openapi_core.exceptions import OpenAPIError

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import ConfigurationError, ExportContext, ExportError, PermanentError
from nexus_tasks.exporters.checkup import check_up
from nexus_tasks.exporters.destinations.elabftw import ELabFTWDestination
from nexus_tasks.sandbox.services import StandIns
from nexus_tasks.sandbox.services.elabftw.installation import READ_ONLY_API_KEY
from nexus_tasks.sandbox.services.elabftw.service import Elabftw
from nexus_tasks.sandbox.services.server import StandInServer
from nexus_tasks.sandbox.services.standins import ELABFTW_API_KEY
from tests.integration.exporters.conftest import Destination, fault, linked, of_session, rebuild, use
from tests.requirements import require_module, wanted

require_module("elabapi_python", "nexus-tasks[dev]")
require_module("openapi_core", "nexus-tasks[dev]")

from tests.integration.exporters.elabftw_client import ApiException, Client  # noqa: E402 - needs what was required
from tests.integration.exporters.elabftw_contract import FILE, FILE_VARIABLE, Contract, Exchange, Recorder  # noqa: E402 - likewise

wanted(FILE.exists(), f"eLabFTW's OpenAPI file (5.3.11) is not here: set {FILE_VARIABLE} to it")

# the file says of a parameter of /info, which is never sent, that it may be empty
pytestmark = pytest.mark.filterwarnings("ignore:Use of allowEmptyValue:DeprecationWarning")

EXPORTER = "nexus-tasks/"  # how the User-Agent of the exporter begins


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract()


@pytest.fixture
def recorder(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(stand_ins.elabftw)
    monkeypatch.setattr(stand_ins.elabftw, "answer", recorder.answer)
    return recorder


def kinds(exchanges: list[Exchange], contract: Contract) -> set[str]:
    return {f"{each.request.method} {contract.path_of(each)} {each.response.status}" for each in exchanges}


def check_all(recorder: Recorder, contract: Contract) -> None:
    """Every request of ours and every answer is as the file says."""
    assert recorder.exchanges
    for exchange in recorder.exchanges:
        contract.check_response(exchange)
        if exchange.request.headers.get("User-Agent", "").startswith(EXPORTER):
            contract.check_request(exchange)
            assert contract.unknown_names(exchange) == set(), str(exchange)


def test_what_an_export_sends_and_gets(
    elabftw: Destination, context: ExportContext, recorder: Recorder, contract: Contract
) -> None:
    elabftw.export(context)
    rebuild(context)
    elabftw.export(linked(context))
    another = of_session(context, "another")
    elabftw.fail(another, fault("504 after saving", "POST", "/experiments$"))
    elabftw.fail(another, fault("504 after saving", "POST", "/uploads$"))
    elabftw.export(another)
    check_all(recorder, contract)
    uploads = "/{entity_type}/{id}/uploads"
    assert kinds(recorder.exchanges, contract) == {
        "GET /info 200",
        "POST /experiments 201",
        "GET /experiments 200",
        "GET /experiments/{id} 200",
        "PATCH /experiments/{id} 200",
        f"POST {uploads} 201",
        f"GET {uploads} 200",
        f"POST {uploads}/{{subid}} 201",
    }


@pytest.mark.parametrize("version", [50000, 50100, 50200, 50300])
def test_what_an_export_to_an_older_release_sends_and_gets(
    context: ExportContext, contract: Contract, version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with StandIns.start(elabftw_version=version) as older:
        use(older, monkeypatch, tmp_path)
        recorder = Recorder(older.elabftw)
        monkeypatch.setattr(older.elabftw, "answer", recorder.answer)
        elabftw = Destination(ELabFTWDestination(), older.elabftw)
        elabftw.fail(context, fault("504 after saving", "POST", "/experiments$"))
        elabftw.export(context)
        assert list(check_up(elabftw.plugin))
        requests.get(f"{older.elabftw.url}/api/v2/info", timeout=10)  # without a key
    check_all(recorder, contract)


def test_what_the_checks_send_and_get(
    elabftw: Destination, recorder: Recorder, contract: Contract, settings: None
) -> None:
    assert all(finding.ok for finding in check_up(elabftw.plugin))
    check_all(recorder, contract)
    assert kinds(recorder.exchanges, contract) == {
        "GET /info 200",
        "GET /users/{id} 200",
        "GET /apikeys 200",
        "GET /teams/{id}/experiments_categories 200",
        "GET /teams/{id}/experiments_status 200",
    }


@pytest.fixture
def settings(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NX_ELABFTW_EXPERIMENT_CATEGORY", "2")
    monkeypatch.setenv("NX_ELABFTW_EXPERIMENT_STATUS", "1")
    get_settings.cache_clear()


def test_how_an_export_is_refused(
    elabftw: Destination,
    context: ExportContext,
    recorder: Recorder,
    contract: Contract,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(kind: type[ExportError], session: ExportContext, **settings: str) -> None:
        with monkeypatch.context() as changed:
            for name, value in settings.items():
                changed.setenv(name, value)
            get_settings.cache_clear()
            with pytest.raises(kind):
                elabftw.export(session)
        get_settings.cache_clear()

    web = requests.Session()
    web.headers["Authorization"] = ELABFTW_API_KEY
    number = elabftw.export(context).record_id
    rebuild(context)
    web.patch(f"{elabftw.server.url}/api/v2/experiments/{number}", json={"action": "lock"})
    refused(PermanentError, context)
    web.patch(f"{elabftw.server.url}/api/v2/experiments/{number}", json={"action": "lock"})
    web.delete(f"{elabftw.server.url}/api/v2/experiments/{number}")
    refused(PermanentError, context)
    refused(ConfigurationError, of_session(context, "a"), NX_ELABFTW_API_KEY="7-wrong")
    refused(ConfigurationError, of_session(context, "b"), NX_ELABFTW_API_KEY=READ_ONLY_API_KEY)
    refused(ConfigurationError, of_session(context, "c"), NX_ELABFTW_EXPERIMENT_STATUS="99")
    check_all(recorder, contract)
    assert {each.response.status for each in recorder.exchanges} >= {200, 201, 204, 400, 401, 500}


@pytest.mark.parametrize(("team", "kind"), [("force_exp_tpl", ConfigurationError), ("user_create_tag", None)])
def test_what_an_export_to_a_strict_team_sends_and_gets(
    stand_ins: StandIns,
    context: ExportContext,
    contract: Contract,
    monkeypatch: pytest.MonkeyPatch,
    team: str,
    kind: type[ExportError] | None,
) -> None:
    strict = Elabftw(ELABFTW_API_KEY, force_exp_tpl=team == "force_exp_tpl", user_create_tag=team != "user_create_tag")
    server = StandInServer(strict)
    recorder = Recorder(server)
    monkeypatch.setattr(server, "answer", recorder.answer)
    server.start()
    try:
        monkeypatch.setenv("NX_ELABFTW_URL", server.url)
        get_settings.cache_clear()
        with pytest.raises(kind) if kind else nullcontext():
            ELabFTWDestination().export(context)
    finally:
        server.stop()
    check_all(recorder, contract)
    read_its_team = any(each.startswith("GET /teams/{id} 200") for each in kinds(recorder.exchanges, contract))
    assert read_its_team == (kind is not None)


def test_what_the_client_of_its_makers_sends_and_gets(
    elabftw: Destination, recorder: Recorder, contract: Contract, tmp_path: Path
) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(b"<a/>")
    client = Client(elabftw.server.url, ELABFTW_API_KEY)
    number = client.create(title="t", body="<p>b</p>", tags=["x"], category=1, status=1, metadata={"extra_fields": {}})
    client.experiments.patch_experiment(number, body={"title": "u", "metadata": json.dumps({"a": 1})})
    client.tags.post_tag("experiments", number, body={"tag": "one"})
    client.tags.read_tags("experiments", number)
    client.find("s")
    client.plain(number)
    upload = client.attach(number, file, "c")
    upload = client.replace(number, upload, file)
    client.uploads.read_uploads("experiments", number)
    client.uploads.read_upload("experiments", number, upload)
    client.download(number, upload)
    client.uploads.patch_upload("experiments", number, upload, body={"comment": "again"})
    client.info.get_info()
    client.users.read_user("me")
    client.keys.get_apikeys()
    client.categories.read_team_experiments_categories(1)
    client.statuses.read_team_experiments_status(1)
    client.uploads.delete_upload("experiments", number, upload)
    client.experiments.delete_experiment(number)
    for refused in (
        lambda: client.plain(9999),
        lambda: client.experiments.patch_experiment(number, body={"title": "x"}),
        lambda: client.attach(number, file, "c"),
        lambda: client.tags.post_tag("experiments", number, body={"tag": "x"}),
        lambda: client.create(body="x" * 4_120_001),
        lambda: client.find('a"b'),
    ):
        with pytest.raises(ApiException):
            refused()
    assert len(recorder.exchanges) == 25
    for exchange in recorder.exchanges:
        contract.check_request(exchange)
        contract.check_response(exchange)
        assert contract.unknown_names(exchange) == set(), str(exchange)


@pytest.fixture
def web(elabftw: Destination) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["Authorization"] = ELABFTW_API_KEY
        yield session


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "experiments", {"json": {"title": 5}}),
        ("POST", "experiments", {"json": {"metadata": "{}"}}),
        ("POST", "experiments", {"json": {"metadata": {"extra_fields": {"a": {"type": "duration", "value": "1"}}}}}),
        ("POST", "experiments", {"json": {"metadata": {"extra_fields": {"a": {"type": "number", "value": 1}}}}}),
        ("POST", "experiments", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
        ("PATCH", "experiments/57", {"json": {"metadata": {"a": 1}}}),
        ("GET", "experiments", {"params": {"scope": "4"}}),
        ("POST", "experiments/57/uploads", {"data": b"raw"}),
        ("GET", "no/such/path", {}),
    ],
)
def test_a_wrong_request_is_caught(
    elabftw: Destination,
    web: requests.Session,
    recorder: Recorder,
    contract: Contract,
    method: str,
    path: str,
    sent: dict[str, object],
) -> None:
    web.request(method, f"{elabftw.server.url}/api/v2/{path}", **sent)  # type: ignore[arg-type] # as the case says
    with pytest.raises(OpenAPIError):
        contract.check_request(recorder.exchanges[-1])


def test_a_name_that_the_file_does_not_know_is_caught(
    elabftw: Destination, web: requests.Session, recorder: Recorder, contract: Contract
) -> None:
    url = f"{elabftw.server.url}/api/v2/experiments"
    web.post(url, json={"titel": "t", "body": "b"})
    web.get(url, params={"limits": "5", "limit": "5"})
    assert [contract.unknown_names(each) for each in recorder.exchanges] == [{"titel"}, {"limits"}]


def test_a_wrong_answer_is_caught(
    elabftw: Destination, web: requests.Session, recorder: Recorder, contract: Contract
) -> None:
    web.get(f"{elabftw.server.url}/api/v2/info")
    (exchange,) = recorder.exchanges
    contract.check_response(exchange)
    for status, body in ((200, b'{"elabftw_version_int": "5"}'), (200, b"no json"), (418, b"{}")):
        exchange.response = type(exchange.response)(status, body, "application/json")
        with pytest.raises(OpenAPIError):
            contract.check_response(exchange)


def test_what_a_post_ignores_is_not_sent(
    elabftw: Destination, context: ExportContext, recorder: Recorder, settings: None
) -> None:
    elabftw.export(linked(context))
    (created,) = [each for each in recorder.exchanges if each.request.path.endswith("/experiments")]
    assert set(json.loads(created.request.body)) == {"title", "body", "tags", "metadata", "category", "status"}
