import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import __version__
from nexus_tasks.exporters import http
from nexus_tasks.exporters.base import ConfigurationError, ExportError, NothingDoneError, PermanentError, TransientError
from nexus_tasks.exporters.http import ServiceSession, before_each_call, call_deadline, open_session
from nexus_tasks.exporters.http_failures import Service, refusal
from tests.timing import fastest
from tests.unit.exporters.conftest import FakeServer, Received, Reply

SERVICE = Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN")


@pytest.fixture(autouse=True)
def _short_times(configure: Callable[..., None]) -> None:
    configure(NX_CALL_DEADLINE=0.5, NX_CONNECT_TIMEOUT=0.5)


@pytest.fixture
def session(server: FakeServer) -> ServiceSession:
    return open_session(SERVICE, server.url, headers={"Authorization": "Token s3cret"}, secrets=("s3cret",))


def drip(handler: Any) -> None:
    """A whole answer, a byte at a time."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


def drip_body(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize("slow", [drip, drip_body])
def test_a_server_that_drips_is_cut_at_the_deadline(
    server: FakeServer, session: ServiceSession, slow: Callable[[Any], None]
) -> None:
    server.answer = lambda _: slow

    def call() -> None:
        with pytest.raises(TransientError, match=r"^CDCS did not answer within 0\.5 s \(POST rest/data/\)\.$"):
            session.call("POST", "rest/data/", json={})

    assert 0.4 < fastest(call, enough=1.5) < 1.5


def test_a_server_that_does_not_read_is_cut_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "UPLOAD_BYTES_PER_SECOND", 10_000_000)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        session = open_session(SERVICE, f"http://127.0.0.1:{deaf.getsockname()[1]}")

        def call() -> None:
            with pytest.raises(TransientError, match="did not answer within"):
                session.call("POST", "rest/data/", data=b"x" * 8_000_000)

        assert 1.2 < fastest(call, enough=3) < 3  # 0.5 s, and 0.8 s for 8 MB


def test_a_larger_body_gets_more_time() -> None:
    assert call_deadline(3_000_000) == pytest.approx(3.5)


def test_connections_are_kept_alive(server: FakeServer, session: ServiceSession) -> None:
    server.reply(200, b"[]")
    for _ in range(3):
        session.call("GET", "rest/data/")
    open_session(SERVICE, server.url).call("POST", "rest/data/", json={})
    assert len(server.connections) == 1


def test_an_idle_connection_is_not_used_again(
    server: FakeServer, session: ServiceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply(200)
    session.call("GET", "a")
    monkeypatch.setattr(http, "LONGEST_IDLE", 0.0)
    session.call("GET", "a")
    assert len(server.connections) == 2


def test_threads_do_not_share_a_connection(server: FakeServer, session: ServiceSession) -> None:
    server.reply(200)
    session.call("GET", "a")
    thread = threading.Thread(target=session.call, args=("GET", "a"))
    thread.start()
    thread.join(5)
    assert len(server.connections) == 2


def test_a_forked_process_does_not_use_its_parents_connection(server: FakeServer, session: ServiceSession) -> None:
    server.reply(200)
    session.call("GET", "a")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if session.call("GET", "child").status == 200 else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    session.call("GET", "a")
    parents = {received.connection for received in server.received if received.path == "/a"}
    children = {received.connection for received in server.received if received.path == "/child"}
    assert len(parents) == 1
    assert len(children) == 1
    assert not parents & children


def test_requests_say_who_calls_and_take_nothing_from_the_environment(
    server: FakeServer, session: ServiceSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.reply(200, b"{}", Set_Cookie="session=1; Path=/")
    session.call("GET", "a")
    session.call("POST", "b", json={})
    for received in server.received:
        assert received.headers["user-agent"] == f"nexus-tasks/{__version__}"
        assert received.headers["authorization"] == "Token s3cret"
        assert "cookie" not in received.headers
    assert server.received[1].headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_write_is_never_redirected(server: FakeServer, session: ServiceSession, status: int) -> None:
    server.answer = lambda _: Reply(status, headers={"Location": f"{server.url}/rest/data/"})
    answer = session.call("POST", "rest/data", json={})
    assert answer.status == status
    assert server.calls == ["POST /rest/data"]
    failure = refusal(answer)
    assert isinstance(failure, ConfigurationError)
    assert "NX_CDCS_URL" in str(failure)


def test_a_reading_get_is_redirected_on_the_same_host(server: FakeServer, session: ServiceSession) -> None:
    server.answer = lambda received: (
        Reply(200, b"here") if received.path == "/b/" else Reply(301, headers={"Location": "/b/"})
    )
    assert session.call("GET", "b").body == b"here"


def test_a_get_that_writes_is_not_redirected(server: FakeServer, session: ServiceSession) -> None:
    server.reply(301, Location="/b/")
    assert session.call("GET", "b", writes=True).status == 301


def test_a_redirect_to_another_host_or_in_a_circle_is_not_followed(server: FakeServer, session: ServiceSession) -> None:
    server.reply(302, Location="http://127.0.0.2:1/login?token=1")
    assert session.call("GET", "b").status == 302
    server.reply(302, Location="/b")
    with pytest.raises(ConfigurationError, match="which is not followed"):
        session.call("GET", "b")


def test_a_refused_connection_says_that_nothing_was_done() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(NothingDoneError, match=r"^CDCS refused the connection \(GET a\): .*NX_CDCS_URL"):
        open_session(SERVICE, f"http://127.0.0.1:{port}").call("GET", "a")


def test_an_unknown_host_is_named_by_its_setting() -> None:
    with pytest.raises(NothingDoneError, match="host name of CDCS is not known"):
        open_session(SERVICE, "http://cdcs.invalid").call("GET", "a")


def reset(handler: Any) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    handler.connection.close()


def truncate(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{")


def hang_up(handler: Any) -> None:
    pass


@pytest.mark.parametrize("ending", [reset, truncate, hang_up])
def test_half_an_answer_may_have_done_what_was_asked(
    server: FakeServer, session: ServiceSession, ending: Callable[[Any], None]
) -> None:
    server.answer = lambda _: ending
    with pytest.raises(TransientError, match="broke off before its answer was complete") as caught:
        session.call("POST", "rest/data/", json={})
    assert not isinstance(caught.value, NothingDoneError)
    assert len(server.received) == 1


def test_no_tls_on_the_other_side_is_said(server: FakeServer) -> None:
    with pytest.raises(TransientError, match="No TLS connection with CDCS"):
        open_session(SERVICE, server.url.replace("http:", "https:")).call("GET", "a")


def test_a_certificate_that_is_not_trusted_is_a_matter_of_configuration(
    secure_server: FakeServer, configure: Callable[..., None], tmp_path: Path
) -> None:
    secure_server.reply(200, b"hello")
    with pytest.raises(ConfigurationError, match=r"certificate of CDCS is not trusted .*NX_CA_BUNDLE"):
        open_session(SERVICE, secure_server.url).call("GET", "a")
    configure(NX_CA_BUNDLE=tmp_path / "certificate.pem")
    assert open_session(SERVICE, secure_server.url).call("GET", "a").body == b"hello"


def test_a_server_that_drips_through_tls_is_cut_at_the_deadline(
    secure_server: FakeServer, configure: Callable[..., None], tmp_path: Path
) -> None:
    configure(NX_CA_BUNDLE=tmp_path / "certificate.pem")
    secure_server.answer = lambda _: drip

    def call() -> None:
        with pytest.raises(TransientError, match="did not answer within"):
            open_session(SERVICE, secure_server.url).call("POST", "a")

    assert fastest(call, enough=1.5) < 1.5


def test_a_missing_ca_bundle_is_a_matter_of_configuration(
    session: ServiceSession, configure: Callable[..., None]
) -> None:
    configure(NX_CA_BUNDLE="/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="NX_CA_BUNDLE names a file that is not there"):
        session.call("GET", "a")


@pytest.mark.parametrize("content", ["", "not a certificate", "-----BEGIN CERTIFICATE-----\ncut o"])
def test_a_ca_bundle_without_certificates_is_a_matter_of_configuration(
    secure_server: FakeServer, configure: Callable[..., None], tmp_path: Path, content: str
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text(content)
    configure(NX_CA_BUNDLE=bundle)
    with pytest.raises(ConfigurationError, match=r"^NX_CA_BUNDLE holds no certificates .*ca\.pem\.$"):
        open_session(SERVICE, secure_server.url).call("GET", "a")
    assert secure_server.received == []


def test_an_empty_folder_as_ca_bundle_is_a_matter_of_configuration(
    session: ServiceSession, configure: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    configure(NX_CA_BUNDLE=tmp_path / "empty")
    with pytest.raises(ConfigurationError, match=r"^NX_CA_BUNDLE holds no certificates"):
        session.call("GET", "a")


def test_a_ca_bundle_that_cannot_be_read_is_a_matter_of_configuration(
    session: ServiceSession, configure: Callable[..., None]
) -> None:
    configure(NX_CA_BUNDLE=f"/{'x' * 300}")  # longer than a name may be: refused to everybody, root included
    with pytest.raises(ConfigurationError, match=r"^NX_CA_BUNDLE cannot be read \(File name too long\): /xxx"):
        session.call("GET", "a")


def test_a_mended_ca_bundle_is_used_by_the_next_call(
    secure_server: FakeServer, configure: Callable[..., None], tmp_path: Path
) -> None:
    secure_server.reply(200)
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    configure(NX_CA_BUNDLE=bundle)
    with pytest.raises(ConfigurationError):
        open_session(SERVICE, secure_server.url).call("GET", "a")
    bundle.write_bytes((tmp_path / "certificate.pem").read_bytes())
    assert open_session(SERVICE, secure_server.url).call("GET", "a").status == 200


@pytest.mark.parametrize("token", ["s3c\nret", "s3cret\r\n", " s3cret", "7–s3cret", "“s3cret”", "s3cret\0"])
def test_credentials_that_cannot_be_sent_are_a_matter_of_configuration(server: FakeServer, token: str) -> None:
    server.reply(200)
    session = open_session(SERVICE, server.url, headers={"Authorization": token}, secrets=(token,))
    with pytest.raises(ConfigurationError, match=r"cannot be sent .*: check NX_CDCS_TOKEN\.$") as caught:
        session.call("POST", "a", json={})
    told = "".join(traceback.format_exception_only(caught.value))
    assert not any(part in told for part in ("s3c", "ret", "“"))
    assert caught.value.__context__ is None
    assert server.received == []


@pytest.mark.parametrize("value", ["Größe – 🔬", "two\nlines"])
def test_a_header_of_one_call_that_cannot_be_sent_is_this_records_fault(
    server: FakeServer, session: ServiceSession, value: str
) -> None:
    with pytest.raises(PermanentError, match="nothing was sent"):
        session.call("POST", "a", headers={"X-Session": value})
    assert server.received == []


@pytest.mark.parametrize("host", ["cdcs..invalid", f"{'x' * 64}.invalid"])
def test_a_host_name_that_cannot_be_one_is_a_matter_of_configuration(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"address of CDCS is not usable .*NX_CDCS_URL"):
        open_session(SERVICE, f"http://{host}").call("GET", "a")


def test_a_signed_address_is_in_no_message_and_no_log(
    server: FakeServer, session: ServiceSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    replies: list[Any] = [reset, truncate, drip, Reply(500, b"failed: /api/x?sig=top/secret&akid=1 s3cret")]
    for reply in replies:
        server.answer = lambda _, reply=reply: reply  # type: ignore[misc]
        with pytest.raises(ExportError) as caught:
            raise refusal(session.call("POST", "api/x", params={"sig": "top/secret"}, writes=True))
        told = traceback.format_exception_only(caught.value)
        assert not any(secret in line for line in told for secret in ("sig", "top", "s3cret"))
        assert caught.value.__context__ is None
    assert "sig=" not in caplog.text


def test_a_call_is_made_only_after_its_check(server: FakeServer, session: ServiceSession) -> None:
    server.reply(200)
    checked: list[int] = []
    with before_each_call(lambda: checked.append(len(server.received))):
        session.call("GET", "a")
        session.call("POST", "a")
    assert checked == [0, 1]


def test_parameters_given_as_a_function_are_made_when_the_check_has_let_the_call_through(
    server: FakeServer, session: ServiceSession
) -> None:
    server.reply(200)
    passed: list[bool] = []
    with before_each_call(lambda: passed.append(True)):
        session.call("GET", "a", params=lambda: {"after": f"{len(passed)} check", "b": "ä/+="})
    assert server.received[0].query == {"after": "1 check", "b": "ä/+="}


def test_a_check_can_stop_calls(server: FakeServer, session: ServiceSession) -> None:
    server.reply(200)

    def gone() -> None:
        raise PermanentError("the lease is gone")

    with before_each_call(gone):
        with pytest.raises(PermanentError):
            session.call("GET", "a")
        with pytest.raises(PermanentError):
            session.call("POST", "a")
    session.call("POST", "b")
    assert server.calls == ["POST /b"]


def test_files_are_sent_whole_at_every_try(server: FakeServer, session: ServiceSession) -> None:
    statuses = iter([503, 201])
    server.answer = lambda _: Reply(next(statuses))
    for _ in range(2):
        session.call("POST", "uploads", files={"file": ("r.xml", b"<r/>", "application/xml")}, data={"comment": "x"})
    assert all(b"<r/>" in received.body for received in server.received)


def test_a_large_file_is_sent_whole_at_every_try(server: FakeServer, session: ServiceSession) -> None:
    statuses, content = iter([503, 201]), bytes(range(256)) * 10_000
    server.answer = lambda _: Reply(next(statuses))
    for _ in range(2):
        session.call("POST", "uploads", files={"file": ("r.xml", content, "application/xml")})
    for received in server.received:
        assert content in received.body
        assert int(received.headers["content-length"]) == len(received.body)
        assert "transfer-encoding" not in received.headers


def test_received_bodies_are_limited(
    server: FakeServer, session: ServiceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(_: Received) -> Reply:
        return Reply(200, b"x" * 200_000)

    monkeypatch.setattr(http, "LARGEST_ANSWER", 100_000)
    server.answer = large
    with pytest.raises(TransientError, match="sent more than"):
        session.call("GET", "a")
