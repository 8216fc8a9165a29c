"""The one factory of HTTP sessions: every destination talks to its service through `open_session`.

Connections are kept alive, one per host, thread and process: two threads, or a worker and its forked child, never share
one. Nothing is taken from the environment: no proxies (`HTTPS_PROXY` included), no netrc, no cookies between calls;
which certificates are trusted is said by `NX_CA_BUNDLE`, through which proxy a destination calls by `NX_PROXIES`.
"""

import contextlib
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from nexus_tasks import __version__
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import ConfigurationError, ExportError, TransientError
from nexus_tasks.exporters.http_deadline import Deadline, DeadlineAdapter
from nexus_tasks.exporters.http_failures import (
    Answer,
    Call,
    Service,
    broken_call,
    did_not_answer,
    refusal,
    unsendable_credentials,
)

UPLOAD_BYTES_PER_SECOND = 1_000_000  # a larger body gets this much more time
LONGEST_IDLE = 30.0  # seconds; a firewall may have forgotten an older connection, and a write on it would hang
LARGEST_ANSWER = 64_000_000  # bytes
MOST_REDIRECTS = 3

_connections = threading.local()
_before_call: ContextVar[Callable[[], None] | None] = ContextVar("nexus_tasks_before_call", default=None)


class _NoAddresses(logging.Filter):
    """Keeps whole addresses out of the log, of which urllib3 writes one for each call: a signed one is a credential."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


logging.getLogger("urllib3.connectionpool").addFilter(_NoAddresses())


def call_deadline(body_bytes: int = 0) -> float:
    """The seconds that a call which sends `body_bytes` may take in all; a lease must be longer."""
    return get_settings().NX_CALL_DEADLINE + body_bytes / UPLOAD_BYTES_PER_SECOND


@contextlib.contextmanager
def before_each_call(check: Callable[[], None]) -> Iterator[None]:
    """Have `check()` called directly before the bytes of each call leave, inside this block.

    For the worker: `check` raises when its lease is gone, or when the call must wait, and then nothing is sent.
    """
    token = _before_call.set(check)
    try:
        yield
    finally:
        _before_call.reset(token)


class ServiceSession:
    """Calls to one service; made by `open_session`, cheap, for one export."""

    def __init__(self, service: Service, base_url: str, headers: Mapping[str, str], secrets: tuple[str, ...]) -> None:
        self.service = service
        self._base_url = base_url.rstrip("/") + "/"
        self._headers = dict(headers)
        self._secrets = secrets

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        json: Any = None,
        data: bytes | Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        writes: bool | None = None,
    ) -> Answer:
        """One call, and its whole answer, whatever its status; `path` is below the base address, without a query.

        `writes` says that the call changes something, which every method but GET and HEAD is taken to do: such a call
        is never redirected. Other calls follow a redirect on the same host. Raises `TransientError` or
        `ConfigurationError` when there is no whole answer. `json`, `data` and `files` are as requests has them; files
        are given as bytes, so that a second try sends them again. `params` that hold for a short while only are given
        as a function, which is called after the wait for the call's turn.
        """
        call = Call(self.service, method, path)
        unsendable = unsendable_credentials(self._headers, call)
        if unsendable is not None:
            raise unsendable
        if writes is None:
            writes = method not in {"GET", "HEAD"}
        request = requests.Request(
            method,
            self._base_url + path.lstrip("/"),
            params=None if callable(params) else params,
            json=json,
            data=data,
            files=files,
            headers={**self._headers, **(headers or {})},
        )
        try:
            prepared = _connection(self._base_url).prepare_request(request)
        except requests.RequestException as error:
            failure = broken_call(error, call, seconds=0, expired=False)
        else:
            check = _before_call.get()
            if check is not None:
                check()
            if callable(params):
                prepared.prepare_url(prepared.url, params())
            with Deadline(call_deadline(_length(prepared.body))) as deadline:
                for _ in range(MOST_REDIRECTS):
                    answer = self._send(prepared, call, deadline)
                    target = _redirect_on_same_host(prepared.url, answer)
                    if writes or target is None:
                        return answer
                    prepared.url = target
            failure = refusal(answer)
        raise failure

    def _send(self, prepared: requests.PreparedRequest, call: Call, deadline: Deadline) -> Answer:
        settings, proxies = get_settings(), _proxies(self.service)
        failure: ExportError
        try:
            response = _connection(self._base_url).send(
                prepared,
                timeout=(settings.NX_CONNECT_TIMEOUT, deadline.seconds),
                verify=_certificates(),
                proxies=proxies,
                allow_redirects=False,
                stream=True,
            )
            with response:
                body = _read(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            failure = broken_call(
                error, call, seconds=deadline.seconds, expired=deadline.expired, proxied=bool(proxies)
            )
        else:
            if deadline.expired:
                failure = did_not_answer(call, deadline.seconds)
            elif body is None:
                failure = TransientError(
                    f"{call.service.name} sent more than {LARGEST_ANSWER // 1_000_000} MB ({call}); it was not read."
                )
            else:
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Answer(call, response.status_code, headers, body, self._secrets)
        raise failure  # outside of `except`: the error of requests, which holds the address, is not chained


def open_session(
    service: Service,
    base_url: str,
    *,
    headers: Mapping[str, str] | None = None,
    secrets: tuple[str, ...] = (),
) -> ServiceSession:
    """A session for calls to `service` below `base_url`.

    `headers` go with every call; `secrets` are what no message may repeat, even if the service does.
    """
    return ServiceSession(service, base_url, headers or {}, secrets)


def _connection(base_url: str) -> requests.Session:
    """The kept-alive session of this thread for the host of `base_url`, a new one if it was idle for long."""
    if getattr(_connections, "process", None) != os.getpid():
        # Forked: the parent goes on using its connections, so they are dropped here without a word on the wire.
        _connections.process = os.getpid()
        _connections.sessions = {}
    sessions: dict[str, tuple[requests.Session, float]] = _connections.sessions
    parts, now = urlsplit(base_url), time.monotonic()
    host = f"{parts.scheme}://{parts.netloc} {_certificates()}"
    session, last_used = sessions.get(host, (None, 0.0))
    if session is not None and now - last_used > LONGEST_IDLE:
        session.close()
        session = None
    if session is None:
        session = requests.Session()
        session.trust_env = False
        session.headers.clear()
        session.headers.update({"User-Agent": f"nexus-tasks/{__version__}", "Accept-Encoding": "gzip, deflate"})
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount("http://", DeadlineAdapter())
        session.mount("https://", DeadlineAdapter())
    sessions[host] = (session, now)
    return session


def _proxies(service: Service) -> dict[str, str]:
    """What requests calls `service` through, by scheme; empty when that is nothing."""
    proxy = get_settings().NX_PROXIES.get(service.destination or "")
    return {} if proxy is None else dict.fromkeys(("http", "https"), proxy.get_secret_value())


def _certificates() -> str | bool:
    bundle = get_settings().NX_CA_BUNDLE
    if bundle is None:
        return True
    try:
        bundle.stat()
        _load_once(bundle)
    except FileNotFoundError:
        raise ConfigurationError(f"NX_CA_BUNDLE names a file that is not there: {bundle}.") from None
    except ssl.SSLError:
        raise ConfigurationError(f"NX_CA_BUNDLE holds no certificates in PEM format: {bundle}.") from None
    except OSError as error:
        raise ConfigurationError(f"NX_CA_BUNDLE cannot be read ({error.strerror}): {bundle}.") from None
    return str(bundle)


@lru_cache(maxsize=1)
def _load_once(bundle: Path) -> None:
    """Have `bundle` loaded as a call would; raises `OSError`, and `ssl.SSLError` when it holds no certificates."""
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not bundle.is_dir():
        trusted.load_verify_locations(cafile=bundle)
    elif not any(bundle.iterdir()):  # which is loaded without complaint, and nothing is trusted then
        raise ssl.SSLError(f"{bundle} is empty")


def _read(response: requests.Response) -> bytes | None:
    body = bytearray()
    for chunk in response.iter_content(65536):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            return None
    return bytes(body)


def _length(body: Any) -> int:
    return len(body) if isinstance(body, bytes | str) else 0


def _redirect_on_same_host(url: str | None, answer: Answer) -> str | None:
    location = answer.headers.get("location")
    if answer.status not in {301, 302, 303, 307, 308} or not location or url is None:
        return None
    target = urljoin(url, location)
    here, there = urlsplit(url), urlsplit(target)
    return target if (here.scheme, here.netloc) == (there.scheme, there.netloc) else None
