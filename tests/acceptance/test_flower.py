"""What can be looked at shows every task, and no secret: Flower, broker and results, logs, PostgreSQL."""

import base64
import binascii
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import redis
import requests

from nexus_tasks.config import Settings
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.waiting import wait_until
from tests.acceptance.installation import Installation, new_session

NOT_SECRET_HERE = {"NX_DATABASE_URL", "NX_BROKER_URL", "NX_RESULT_BACKEND_URL"}  # no passwords in these
EXPORTS = {"export.cdcs", "export.elabftw", "export.labarchives", "finalize"}
END = "the end of listening"
STORED = "what stands in broker and result backend"


@dataclass(frozen=True)
class Seen:
    """Everything that a curious person can get at after some exports, as text by place."""

    good: str  # sessions
    refused: str
    unreachable: str
    places: dict[str, str]
    tasks: dict[str, Any]  # Flower's


@pytest.fixture(scope="module")
def seen(running_installation: Installation) -> Seen:
    installation = running_installation
    installation.stand_ins.reset()
    good, refused, unreachable = new_session(), new_session(), new_session()
    flower = installation.start_flower(FLOWER_UNAUTHENTICATED_API="true")

    def tasks() -> dict[str, Any]:
        answer = requests.get(f"{flower}/api/tasks", timeout=10)
        answer.raise_for_status()
        return dict(answer.json())

    wait_until(lambda: bool(tasks()), 20, "Flower to see the dispatches of beat")
    with installation.entered(), everything_sent(installation) as passed_by:
        installation.hand_over(good)
        installation.wait_until_settled(good)
        with services_that_repeat_secrets(installation):
            installation.hand_over(refused)
            installation.wait_until_settled(refused)
        with nobody_listening(installation):
            installation.hand_over(unreachable)
            installation.wait_until_settled(unreachable)
    wait_until(lambda: all(ended(tasks(), session) for session in (good, unreachable)), 20, "Flower to see it all")
    found = tasks()
    infos = [requests.get(f"{flower}/api/task/info/{key}", timeout=10).text for key in found]
    return Seen(
        good,
        refused,
        unreachable,
        {
            "Flower's list of tasks": json.dumps(found),
            "Flower's task pages": "\n".join(infos),
            "what went through broker and result backend": unfolded("\n".join(passed_by)),
            STORED: unfolded(everything_in(installation.valkey.url)),
            "the logs": logs(installation),
            "PostgreSQL": tables(installation),
        },
        found,
    )


def test_flower_lists_the_exports_and_finalize(seen: Seen) -> None:
    of_session = [task for task in seen.tasks.values() if seen.good in str(task["kwargs"])]

    assert {task["name"] for task in of_session} == EXPORTS
    assert {task["state"] for task in of_session} == {"SUCCESS"}
    assert len(of_session) == len(EXPORTS)


def test_flower_shows_what_an_export_came_to(seen: Seen) -> None:
    [cdcs] = [
        task for task in seen.tasks.values() if task["name"] == "export.cdcs" and seen.good in str(task["kwargs"])
    ]

    assert "succeeded" in cdcs["result"]
    assert "/data?id=" in cdcs["result"]


@pytest.mark.parametrize(
    "place",
    [
        "Flower's list of tasks",
        "Flower's task pages",
        "what went through broker and result backend",
        STORED,
        "the logs",
        "PostgreSQL",
    ],
)
def test_no_secret_stands_in(place: str, seen: Seen, running_installation: Installation) -> None:
    text = seen.places[place]

    assert seen.unreachable in text, "nothing about the export was found here: the test looks in the wrong place"
    assert (seen.good in text) == (place != STORED), "the broker keeps what went wrong, and nothing that succeeded"
    shown = [name for name, forms in secrets(running_installation).items() if any(form in text for form in forms)]
    assert shown == []
    assert not re.search(r"[?&\s\"']sig=", text)


def test_the_failures_were_those_that_could_have_given_a_secret_away(
    seen: Seen, running_installation: Installation
) -> None:
    failures = running_installation.rows(
        "SELECT DISTINCT session_identifier, destination_name FROM upload_log "
        "WHERE success = 0 AND error_message IS NOT NULL AND session_identifier = ANY(:sessions)",
        sessions=[seen.refused, seen.unreachable],
    )

    names = ("cdcs", "elabftw", "labarchives")
    assert set(failures) == {(session, name) for session in (seen.refused, seen.unreachable) for name in names}


def secrets(installation: Installation) -> dict[str, set[str]]:
    """The secret settings, each in every form in which it could be written."""
    values = {
        name: installation.environment[name]
        for name, field in Settings.model_fields.items()
        if "Secret" in str(field.annotation) and name not in NOT_SECRET_HERE and installation.environment.get(name)
    }
    assert set(values) == {
        "NX_CDCS_TOKEN",
        "NX_ELABFTW_API_KEY",
        "NX_LABARCHIVES_ACCESS_PASSWORD",
        "NX_LABARCHIVES_USER_ID",
    }
    return {name: {value, quote(value), quote(value, safe=""), quote_plus(value)} for name, value in values.items()}


@contextmanager
def services_that_repeat_secrets(installation: Installation) -> Iterator[None]:
    """Each refuses, and says in its answer what it was sent: some proxies do."""
    own, stand_ins = installation.environment, installation.stand_ins
    signed = f"/api/entries/add_entry?uid={quote(own['NX_LABARCHIVES_USER_ID'])}&akid=a&sig=abcdefghijkl"
    said = f"{signed.replace('&', '&amp;')} {own['NX_LABARCHIVES_ACCESS_PASSWORD']}"
    answers = {
        stand_ins.cdcs: (
            500,
            json.dumps({"message": f"XML is not valid, Authorization: Token {own['NX_CDCS_TOKEN']}"}),
        ),
        stand_ins.elabftw: (400, json.dumps({"description": f"wrong request of {own['NX_ELABFTW_API_KEY']}"})),
        stand_ins.labarchives: (413, f"<error><error-code>4521</error-code><msg>{said}</msg></error>"),
    }
    for server, (status, body) in answers.items():
        server.faults.replace([Fault(FaultKind.STATUS, status=status, body=body, method="POST")])
    yield
    for server in stand_ins.servers:
        server.faults.replace([])


@contextmanager
def nobody_listening(installation: Installation) -> Iterator[None]:
    """The services are away: what HTTP libraries raise then holds the whole address."""
    for server in installation.stand_ins.servers:
        server.stop()
    yield
    for server in installation.stand_ins.servers:
        server.start()


@contextmanager
def everything_sent(installation: Installation) -> Iterator[list[str]]:
    """What broker and result backend get meanwhile."""
    with ExitStack() as stack:
        heard = [stack.enter_context(listening(installation.valkey.url))]
        if installation.rabbitmq is not None:
            heard.append(stack.enter_context(installation.rabbitmq.listening(installation.virtual_host)))
        everything: list[str] = []
        yield everything
    everything.extend(line for lines in heard for line in lines)


@contextmanager
def listening(url: str) -> Iterator[list[str]]:
    """Every command that a Valkey gets meanwhile."""
    commands: list[str] = []
    begun = threading.Event()

    def listen() -> None:
        with redis.Redis.from_url(url) as client, client.monitor() as monitor:
            begun.set()
            for command in monitor.listen():
                if END in str(command["command"]):
                    return
                commands.append(str(command["command"]))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert begun.wait(10)
    try:
        yield commands
    finally:
        with redis.Redis.from_url(url) as client:
            client.echo(END)
        listener.join(10)


def everything_in(url: str) -> str:
    """Every key of a Valkey with its value."""
    read: dict[bytes, Callable[[redis.Redis, bytes], object]] = {
        b"string": lambda client, key: client.get(key),
        b"list": lambda client, key: client.lrange(key, 0, -1),
        b"set": lambda client, key: client.smembers(key),
        b"hash": lambda client, key: client.hgetall(key),
        b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    }
    with redis.Redis.from_url(url) as client:
        kinds = {key: client.type(key) for key in client.scan_iter(count=1000)}
        return "\n".join(
            f"{key!r}: {read[kind](client, key)!r}"
            for key, kind in kinds.items()
            if isinstance(kind, bytes) and kind in read
        )


def unfolded(text: str) -> str:
    """The text, and what stands in it as base64: so a broker holds the bodies of messages."""
    inside = []
    for folded in re.findall(r"[A-Za-z0-9+/]{24,}={0,2}", text):
        try:
            inside.append(base64.b64decode(folded + "=" * (-len(folded) % 4)).decode("utf-8"))
        except (binascii.Error, UnicodeDecodeError):
            continue
    return "\n".join([text, *inside])


def logs(installation: Installation) -> str:
    """Of workers, beat and Flower, and the files under `NX_LOG_PATH`."""
    files: list[Path] = [
        *installation.folder.glob("*/*.log"),
        *(file for file in (installation.folder / "logs").iterdir() if file.is_file()),
    ]
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def tables(installation: Installation) -> str:
    """Every row of every table."""
    names = installation.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    assert len(names) > 5
    return "\n".join(
        str(row) for (name,) in names for (row,) in installation.rows(f'SELECT t::text FROM "{name}" AS t')
    )


def ended(tasks: dict[str, Any], session: str) -> bool:
    """Whether Flower has seen the end of a session's run."""
    return any(
        task["name"] == "finalize" and session in str(task["kwargs"]) and task["state"] == "SUCCESS"
        for task in tasks.values()
    )
