import logging
import socket
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from nexus_tasks.config import get_settings
from nexus_tasks.exporters import http
from nexus_tasks.exporters.base import ConfigurationError, ExportError, NothingDoneError, TransientError
from nexus_tasks.exporters.http import open_session
from nexus_tasks.exporters.http_failures import Service, refusal
from tests.proxies import Proxy, running_proxy
from tests.timing import fastest
from tests.unit.exporters.conftest import FakeServer

SERVICE = Service("LabArchives", "NX_LABARCHIVES_URL", "NX_LABARCHIVES_USER_ID", "labarchives")
ANOTHER = Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN", "cdcs")
NAMELESS = Service("Catalogue", "CATALOGUE_URL", "CATALOGUE_TOKEN")


@pytest.fixture
def proxy(configure: Callable[..., None]) -> Iterator[Proxy]:
    """A proxy that LabArchives is called through."""
    with running_proxy() as running:
        configure(NX_PROXIES=f"labarchives=http://jo:s3cr%40t@{running.address}")
        yield running


@pytest.fixture
def trusted(secure_server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: Proxy) -> FakeServer:
    """A server with TLS, and a certificate that is trusted."""
    monkeypatch.setenv("NX_CA_BUNDLE", str(tmp_path / "certificate.pem"))
    get_settings.cache_clear()
    return secure_server


def test_calls_with_tls_go_through_a_tunnel_that_is_kept(trusted: FakeServer, proxy: Proxy) -> None:
    trusted.reply(200, b"hello")
    session = open_session(SERVICE, trusted.url, headers={"Authorization": "Token t"})
    for method in ("GET", "POST"):
        assert session.call(method, "a", params={"sig": "secret"}).body == b"hello"
    assert proxy.asked == [f"CONNECT {trusted.url.removeprefix('https://')}"]
    assert proxy.credentials == {f"Basic {b64encode(b'jo:s3cr@t').decode()}"}
    assert not any(name.startswith("proxy-") for received in trusted.received for name in received.headers)
    assert all(received.headers["authorization"] == "Token t" for received in trusted.received)


def test_calls_without_tls_are_forwarded(server: FakeServer, proxy: Proxy) -> None:
    server.reply(200, b"hello")
    assert open_session(SERVICE, server.url).call("GET", "a").body == b"hello"
    assert open_session(SERVICE, server.url).call("POST", "b", json={}).body == b"hello"
    assert proxy.asked == [f"GET {server.url}/a", f"POST {server.url}/b"]
    assert proxy.credentials == {f"Basic {b64encode(b'jo:s3cr@t').decode()}"}


def test_only_the_destination_that_is_named_goes_through_it(server: FakeServer, proxy: Proxy) -> None:
    server.reply(200, b"hello")
    for service in (ANOTHER, NAMELESS, SERVICE, ANOTHER):  # at one host
        assert open_session(service, server.url).call("GET", service.name).body == b"hello"
    assert proxy.asked == [f"GET {server.url}/LabArchives"]


def test_the_certificate_is_the_services_and_is_checked(
    secure_server: FakeServer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigurationError, match="certificate of LabArchives is not trusted") as caught:
        open_session(SERVICE, secure_server.url).call("GET", "a")
    assert proxy.asked
    assert secure_server.received == []
    assert_no_password(caught.value, caplog)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A whole answer, a byte at a time: to CONNECT as well, which is not made then."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


def test_a_service_that_drips_through_a_tunnel_is_cut_at_the_deadline(
    trusted: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NX_CALL_DEADLINE", "0.5")
    get_settings.cache_clear()
    trusted.answer = lambda _: drip

    def call() -> None:
        with pytest.raises(TransientError, match=r"did not answer within 0\.5 s"):
            open_session(SERVICE, trusted.url).call("POST", "a")

    assert fastest(call, enough=1.5) < 1.5


def test_a_proxy_that_drips_is_cut_at_the_deadline(
    trusted: FakeServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NX_CALL_DEADLINE", "0.5")
    get_settings.cache_clear()
    proxy.answer = drip

    def call() -> None:
        with pytest.raises(NothingDoneError, match=r"cannot be reached .*check NX_PROXIES, too"):
            open_session(SERVICE, trusted.url).call("POST", "a")

    assert fastest(call, enough=1.5) < 1.5
    assert trusted.received == []


def test_an_answer_through_a_tunnel_is_limited(trusted: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LARGEST_ANSWER", 100_000)
    trusted.reply(200, b"x" * 200_000)
    with pytest.raises(TransientError, match="sent more than"):
        open_session(SERVICE, trusted.url).call("GET", "a")


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    pass


def nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"go away\r\n\r\n")


def refuse(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(407)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize("answer", [hang_up, nonsense, refuse])
def test_a_tunnel_that_is_not_made_has_done_nothing(
    trusted: FakeServer,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    answer: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.answer = answer
    with pytest.raises(NothingDoneError, match=r"^LabArchives cannot be reached .*check NX_PROXIES, too\.$") as caught:
        open_session(SERVICE, trusted.url).call("POST", "a")
    assert trusted.received == []
    assert_no_password(caught.value, caplog)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_away_has_done_nothing(
    configure: Callable[..., None], caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    configure(NX_PROXIES=f"labarchives=http://jo:s3cr%40t@127.0.0.1:{port}")
    with pytest.raises(NothingDoneError, match=r"check NX_PROXIES, too\.$") as caught:
        open_session(SERVICE, f"{scheme}://labarchives.invalid").call("POST", "a")
    assert_no_password(caught.value, caplog)


@pytest.mark.parametrize("answer", [hang_up, nonsense])
def test_a_proxy_that_breaks_off_a_call_may_have_passed_it_on(
    server: FakeServer, proxy: Proxy, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    proxy.answer = answer
    with pytest.raises(TransientError, match="may have done what was asked") as caught:
        open_session(SERVICE, server.url).call("POST", "a")
    assert not isinstance(caught.value, NothingDoneError)


def test_a_proxy_that_wants_to_know_who_calls_is_a_matter_of_configuration(server: FakeServer, proxy: Proxy) -> None:
    proxy.answer = refuse
    failure = refusal(open_session(SERVICE, server.url).call("POST", "a"))
    assert isinstance(failure, ConfigurationError)
    assert str(failure).startswith("The proxy before LabArchives does not let us in (407 to POST a): check user")


def assert_no_password(error: ExportError, caplog: pytest.LogCaptureFixture) -> None:
    told = "".join(traceback.format_exception(error)) + caplog.text
    assert "s3cr" not in told
    assert error.__context__ is None
