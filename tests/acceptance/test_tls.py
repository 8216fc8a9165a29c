"""Database and broker behind password and TLS, by address alone. Debian's servers: the embedded ones have no TLS."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from nexus_tasks.celery import create_app
from nexus_tasks.config import load_settings
from nexus_tasks.db.migrate import upgrade
from nexus_tasks.exporters.registry import discover
from nexus_tasks.sandbox import postgres
from nexus_tasks.sandbox.lifeline import Lifeline
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.ports import free_port
from nexus_tasks.sandbox.services.standins import StandIns
from tests.acceptance.installation import Installation, new_session, record_xml, the_only_line
from tests.acceptance.rabbitmq import RabbitMq
from tests.requirements import require, require_program

PASSWORD = "p%40ss-word"  # of the test's own servers; as it stands in an address
PLAIN_PASSWORD = "p@ss-word"  # the same
DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Secured:
    """The servers' addresses without TLS options, the certificate to trust, and one of somebody else."""

    database: str
    broker: str
    authority: Path
    other_authority: Path

    def database_trusting(self, authority: Path) -> str:
        return f"{self.database}?sslmode=verify-full&sslrootcert={authority}"

    def broker_trusting(self, authority: Path) -> str:
        return f"{self.broker}?ssl_ca_certs={authority}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("tls")
    with Lifeline(made):
        yield made


@pytest.fixture(scope="module")
def certificates(folder: Path) -> Path:
    """A folder with an authority, a certificate of it for this machine, and another authority."""
    made = folder / "certificates"
    made.mkdir()
    for authority in ("authority", "other"):
        _openssl(
            made,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-authority "
            f"-keyout {authority}.key -out {authority}.pem -addext basicConstraints=critical,CA:TRUE",
        )
    _openssl(
        made,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost "
        "-keyout server.key -out server.csr",
    )
    (made / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n", encoding="utf-8")
    _openssl(
        made,
        "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names "
        "-out server.pem",
    )
    (made / "server.key").chmod(0o600)
    return made


@pytest.fixture(scope="module")
def secured(folder: Path, certificates: Path) -> Iterator[Secured]:
    database, broker = _postgresql(folder / "postgresql", certificates), _redis(folder / "redis", certificates)
    with database as postgresql, broker as redis:
        yield Secured(
            f"postgresql://nexus:{PASSWORD}@127.0.0.1:{postgresql.port}/postgres",
            f"rediss://:{PASSWORD}@127.0.0.1:{redis.port}/0",
            certificates / "authority.pem",
            certificates / "other.pem",
        )


@pytest.fixture(scope="module")
def lab(secured: Secured, folder: Path) -> Iterator[Installation]:
    database = secured.database_trusting(secured.authority)
    upgrade(database)
    stand_ins = StandIns.start()
    made = Installation(
        folder / "installation", database, stand_ins, {"NX_BROKER_URL": secured.broker_trusting(secured.authority)}
    )
    with made.entered():
        yield made
    made.stop()
    stand_ins.stop()


def test_a_record_travels_through_tls(lab: Installation, secured: Secured) -> None:
    lab.start_worker(concurrency=2)
    session = new_session()
    lab.hand_over(session)
    lab.wait_until_settled(session, seconds=60)

    assert lab.status(session) == "COMPLETED"
    assert lab.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)]
    log = lab.workers[0].container.process.logs()
    assert PASSWORD not in log
    assert PLAIN_PASSWORD not in log
    assert "insecure" not in log


def test_a_database_with_a_certificate_of_somebody_else_is_refused(lab: Installation, secured: Secured) -> None:
    told = the_only_line(lab.command("db", "check", NX_DATABASE_URL=secured.database_trusting(secured.other_authority)))

    assert "certificate verify failed" in told
    assert "NX_DATABASE_URL" in told
    assert PASSWORD not in told
    assert PLAIN_PASSWORD not in told


def test_a_broker_with_a_certificate_of_somebody_else_is_refused(
    lab: Installation, secured: Secured, tmp_path: Path
) -> None:
    told = _enqueued(lab, tmp_path, secured.broker_trusting(secured.other_authority))

    assert "certificate verify failed" in told.lower()
    assert "NX_BROKER_URL" in told
    assert PASSWORD not in told
    assert PLAIN_PASSWORD not in told


def test_a_broker_s_certificate_is_checked_when_the_address_says_nothing(
    lab: Installation, secured: Secured, tmp_path: Path
) -> None:
    assert "certificate verify failed" in _enqueued(lab, tmp_path, secured.broker).lower()


def test_a_certificate_for_another_name_is_refused(lab: Installation, secured: Secured, tmp_path: Path) -> None:
    elsewhere = secured.broker_trusting(secured.authority).replace("127.0.0.1", "127.0.0.2")

    assert "mismatch" in _enqueued(lab, tmp_path, elsewhere).lower()


def test_a_wrong_password_is_told_without_it(lab: Installation, secured: Secured, tmp_path: Path) -> None:
    broker = secured.broker_trusting(secured.authority).replace(PASSWORD, "not-the-one")
    database = secured.database_trusting(secured.authority).replace(PASSWORD, "not-the-one")
    for told in (_enqueued(lab, tmp_path, broker), the_only_line(lab.command("db", "check", NX_DATABASE_URL=database))):
        assert "password" in told.lower()
        assert "not-the-one" not in told


def test_rabbitmq_is_reached_through_tls_and_its_certificate_is_checked(folder: Path, certificates: Path) -> None:
    port = free_port()
    configuration = [
        f"listeners.ssl.local = 127.0.0.1:{port}",
        f"listeners.ssl.other = 127.0.0.2:{port}",
        f"ssl_options.cacertfile = {certificates / 'authority.pem'}",
        f"ssl_options.certfile = {certificates / 'server.pem'}",
        f"ssl_options.keyfile = {certificates / 'server.key'}",
    ]
    address = f"amqps://guest:guest@127.0.0.1:{port}//"
    with RabbitMq(folder / "rabbitmq", configuration):
        _connect(f"{address}?ssl_ca_certs={certificates / 'authority.pem'}")
        for refused in (
            f"{address}?ssl_ca_certs={certificates / 'other.pem'}",
            f"{address}?ssl_ca_certs={certificates / 'authority.pem'}".replace("127.0.0.1", "127.0.0.2"),
            address,
        ):
            with pytest.raises(OperationalError, match=r"(?i)certificate verify failed"):
                _connect(refused)


def _connect(broker: str) -> None:
    """A new connection: `send_task` would take one that is open already."""
    settings = load_settings(NX_BROKER_URL=broker, NX_RESULT_BACKEND_URL="redis://127.0.0.1:1/0")
    with create_app(settings, discover([])).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=5)


def _enqueued(lab: Installation, folder: Path, broker: str) -> str:
    """The one line that `enqueue` says with this broker."""
    session, record = new_session(), folder / "record.xml"
    record.write_bytes(record_xml(session))
    options = ("--session", session, "--instrument", "x", "--start", "2026-03-02T09:00Z", "--end", "2026-03-02T10:00Z")
    return the_only_line(lab.command("enqueue", record, *options, NX_BROKER_URL=broker))


def _openssl(folder: Path, command: str) -> None:
    subprocess.run([require_program("openssl"), *command.split()], cwd=folder, check=True, capture_output=True)


class _Server(ManagedProcess):
    """A server and its port."""

    port = 0


def _redis(folder: Path, certificates: Path) -> _Server:
    """It listens for TLS alone, and shuts others out."""
    port = free_port()
    files = ["--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "authority.pem"]
    process = _Server(
        "redis",
        [
            require_program("redis-server"),
            *("--bind", "127.0.0.1 127.0.0.2", "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"),
            *(part if part.startswith("--") else str(certificates / part) for part in files),
            *("--requirepass", PLAIN_PASSWORD, "--save", "", "--appendonly", "no"),
        ],
        folder,
        ready=lambda: "Ready to accept connections" in process.logs_since_start(),
    )
    process.port = port
    return process


def _postgresql(folder: Path, certificates: Path) -> _Server:
    """It lets nobody in without TLS and password."""
    found = sorted(DEBIAN_POSTGRESQL.glob("*/bin/initdb"))
    require(found, "Debian's PostgreSQL is not installed: install postgresql")
    programs, data, port = found[-1].parent, folder / "data", free_port()
    folder.mkdir()
    launcher = postgres._launcher(folder, programs)
    secret = folder / "password"
    secret.write_text(PLAIN_PASSWORD, encoding="utf-8")
    initdb = [programs / "initdb", "-D", data, "-U", "nexus", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"]
    subprocess.run([*launcher, *map(str, initdb), "-E", "UTF8", "--locale=C"], check=True, capture_output=True)
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n", encoding="utf-8")
    for name, mode in (("server.pem", 0o644), ("server.key", 0o600)):
        copied = data / name
        copied.write_bytes((certificates / name).read_bytes())
        copied.chmod(mode)
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": "server.pem",
        "ssl_key_file": "server.key",
    }
    given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    process = _Server(
        "postgresql",
        [*launcher, programs / "postgres", "-D", data, "-p", str(port), *given],
        folder,
        ready=lambda: "ready to accept connections" in process.logs_since_start(),
    )
    process.port = port
    return process
