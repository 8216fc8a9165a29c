"""eLabFTW's own Python client reads back what the exporter wrote, and drives the stand-in by itself."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from nexus_tasks.exporters.base import ExportContext
from nexus_tasks.exporters.title import attachment_name
from nexus_tasks.sandbox.services.elabftw.installation import READ_ONLY_API_KEY
from nexus_tasks.sandbox.services.standins import ELABFTW_API_KEY
from tests.integration.exporters.conftest import LINK, SESSION, Destination, linked, rebuild, sha256
from tests.requirements import require_module

require_module("elabapi_python", "nexus-tasks[dev]")

if TYPE_CHECKING:
    from tests.integration.exporters.elabftw_client import Client


@pytest.fixture
def client(elabftw: Destination) -> "Client":
    from tests.integration.exporters.elabftw_client import Client

    return Client(elabftw.server.url, ELABFTW_API_KEY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mikroskop ü.xml"
    path.write_bytes(b"\r\n--\x00\xff<xml/>\r\n")
    return path


def refused(call: Callable[[], object]) -> int:
    """The status with which a call is refused; what is said with it has eLabFTW's three parts."""
    from tests.integration.exporters.elabftw_client import ApiException, described

    with pytest.raises(ApiException) as caught:
        call()
    said = described(caught.value)
    assert set(said) == {"code", "message", "description"}
    assert said["code"] == caught.value.status
    return int(caught.value.status)


# --- what the exporter wrote


def test_it_reads_the_title_text_and_tags(elabftw: Destination, context: ExportContext, client: "Client") -> None:
    number = int(elabftw.export(linked(context)).record_id or "")
    experiment = client.experiments.get_experiment(number)
    assert experiment.title == f"NexusLIMS Experiment - {SESSION}"
    assert client.plain(number)["tags"] == "NexusLIMS|Titan-012345|jsmith"
    for part in ("<h1>NexusLIMS Microscopy Session</h1>", f"<strong>Session ID</strong>: {SESSION}", "a.dm3", LINK):
        assert part in experiment.body
    assert sorted(tag.tag for tag in client.tags.read_tags("experiments", number)) == [
        "NexusLIMS",
        "Titan-012345",
        "jsmith",
    ]


def test_it_reads_extra_fields_with_their_types(elabftw: Destination, context: ExportContext, client: "Client") -> None:
    zone = ZoneInfo("America/New_York")
    local = replace(
        context,
        dt_from=datetime(2026, 3, 2, 4, tzinfo=zone),
        dt_to=datetime(2026, 3, 2, 5, 30, 15, tzinfo=zone),
    )
    number = int(elabftw.export(linked(local)).record_id or "")
    fields = client.metadata(number)["extra_fields"]
    assert {name: (field["type"], field["value"]) for name, field in fields.items()} == {
        "Session ID": ("text", SESSION),
        "Instrument": ("text", "Titan-012345"),
        "User": ("text", "jsmith"),
        "Start": ("datetime-local", "2026-03-02T04:00:00"),
        "End": ("datetime-local", "2026-03-02T05:30:15"),
        "CDCS URL": ("url", LINK),
    }
    assert fields["Start"]["description"] == "2026-03-02T04:00:00-05:00 (America/New_York)"
    assert fields["End"]["description"] == "2026-03-02T05:30:15-05:00 (America/New_York)"
    assert "2026-03-02T04:00:00-05:00 (America/New_York)" in client.experiments.get_experiment(number).body


def test_it_gets_the_record_byte_for_byte(elabftw: Destination, context: ExportContext, client: "Client") -> None:
    number = int(elabftw.export(context).record_id or "")
    for _ in range(2):
        (upload,) = client.uploads.read_uploads("experiments", number)
        content = context.xml_file_path.read_bytes()
        assert (upload.real_name, upload.hash, upload.hash_algorithm) == (
            attachment_name(context),
            sha256(context),
            "sha256",
        )
        assert upload.filesize == len(content)
        assert client.download(number, upload.id) == content
        rebuild(context)
        elabftw.export(context)


def test_it_finds_the_experiment_by_its_session(elabftw: Destination, context: ExportContext, client: "Client") -> None:
    number = int(elabftw.export(context).record_id or "")
    assert client.find(SESSION) == [number]
    assert client.find(SESSION.upper().replace("ABC", "%")) == [number]
    assert client.find("another") == []


def test_category_and_status_are_those_of_the_settings(
    elabftw: Destination, context: ExportContext, client: "Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexus_tasks.config import get_settings

    (category, status) = (client.categories.read_team_experiments_categories(1)[1], 2)
    monkeypatch.setenv("NX_ELABFTW_EXPERIMENT_CATEGORY", str(category.id))
    monkeypatch.setenv("NX_ELABFTW_EXPERIMENT_STATUS", str(status))
    get_settings.cache_clear()
    experiment = client.experiments.get_experiment(int(elabftw.export(context).record_id or ""))
    assert (experiment.category, experiment.category_title) == (category.id, category.title)
    assert (experiment.status, experiment.status_title) == (2, "Success")


# --- the client by itself


def test_it_makes_and_changes_an_experiment(client: "Client") -> None:
    metadata = {"extra_fields": {"Session ID": {"type": "text", "value": "s"}}}
    number = client.create(title="t", body="<p>b</p>", tags=["x", "y|z"], category=1, status=3, metadata=metadata)
    made = client.experiments.get_experiment(number)
    assert (made.title, made.body, made.category, made.status) == ("t", "<p>b</p>", 1, 3)
    assert client.plain(number)["tags"] == "x|y z"
    assert client.metadata(number) == metadata
    changed = client.experiments.patch_experiment(number, body={"title": "u", "metadata": json.dumps({"a": 1})})
    assert changed.title == "u"
    assert client.metadata(number) == {"a": 1}


def test_it_adds_tags(client: "Client") -> None:
    number = client.create(title="t")
    client.tags.post_tag("experiments", number, body={"tag": "one"})
    client.tags.post_tag("experiments", number, body={"tags": ["two", "one"]})
    assert client.plain(number)["tags"] == "one|two"


def test_it_attaches_replaces_and_deletes_files(client: "Client", file: Path) -> None:
    number = client.create(title="t")
    first = client.attach(number, file, "a comment")
    (upload,) = client.uploads.read_uploads("experiments", number)
    assert (upload.id, upload.real_name, upload.comment) == (first, file.name, "a comment")
    assert upload.hash == hashlib.sha256(file.read_bytes()).hexdigest()
    assert client.download(number, first) == file.read_bytes()
    file.write_bytes(b"newer")
    second = client.replace(number, first, file)
    (upload,) = client.uploads.read_uploads("experiments", number)
    assert (upload.id, upload.comment) == (second, None)  # the service forgets the comment
    assert client.download(number, second) == b"newer"
    assert [each.id for each in client.uploads.read_uploads("experiments", number, state="2")] == [first]
    client.uploads.delete_upload("experiments", number, second)
    assert client.uploads.read_uploads("experiments", number) == []


def test_what_is_replaced_twice_comes_back(client: "Client", file: Path) -> None:
    number = client.create(title="t")
    first = client.attach(number, file, "c")
    second, third = (client.replace(number, first, file) for _ in range(2))
    current = {each.id for each in client.uploads.read_uploads("experiments", number)}
    assert current == {first, second, third}


def test_it_deletes_an_experiment(client: "Client") -> None:
    number = client.create(title="t")
    client.experiments.delete_experiment(number)
    assert client.experiments.get_experiment(number).state == 3
    assert client.experiments.read_experiments() == []


def test_it_reads_who_it_is_and_what_there_is(client: "Client") -> None:
    assert client.info.get_info().elabftw_version_int == 50311
    assert client.users.read_user("me").fullname == "Sandbox User"
    assert [(key.id, key.can_write) for key in client.keys.get_apikeys()] == [(7, 1), (8, 0)]
    assert [each.title for each in client.statuses.read_team_experiments_status(1)][:2] == ["Running", "Success"]


def test_it_is_refused_as_the_service_refuses(client: "Client", elabftw: Destination, file: Path) -> None:
    from tests.integration.exporters.elabftw_client import Client

    number, gone = client.create(title="t"), client.create(title="gone")
    client.experiments.delete_experiment(gone)
    wrong = Client(elabftw.server.url, "7-wrong")
    reader = Client(elabftw.server.url, READ_ONLY_API_KEY)
    refusals = {
        401: [wrong.info.get_info, lambda: wrong.create(title="t")],
        404: [
            lambda: client.experiments.get_experiment(9999),
            lambda: client.uploads.read_uploads("experiments", 9999),
            lambda: client.uploads.read_upload("experiments", number, 9999),
        ],
        422: [
            lambda: client.experiments.patch_experiment(gone, body={"title": "x"}),
            lambda: client.attach(gone, file, "c"),
            lambda: client.tags.post_tag("experiments", gone, body={"tag": "x"}),
        ],
        400: [
            lambda: client.tags.post_tag("experiments", number, body={"tag": " "}),
            lambda: client.create(metadata="{}"),
            lambda: client.create(body="x" * 4_120_001),
            lambda: client.find('a"b'),
            lambda: reader.create(title="t"),
        ],
        500: [lambda: client.create(status=99)],
    }
    for status, calls in refusals.items():
        assert {refused(call) for call in calls} == {status}
    assert reader.experiments.get_experiment(number).title == "t"
