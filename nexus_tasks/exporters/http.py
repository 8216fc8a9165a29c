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
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.structures import CaseInsensitiveDict
from requests.utils import check_header_validity

from nexus_tasks import __version__
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import ConfigurationError, ExportError, TransientError
from nexus_tasks.exporters.http_body import Body, Files, address, encoded, form_body, json_body, multipart_body
from nexus_tasks.exporters.http_deadline import Deadline, DeadlineAdapter
from nexus_tasks.exporters.http_failures import (
    Answer,
    Call,
    Service,
    broken_call,
    can_be_sent,
    did_not_answer,
    refusal,
    unsendable_credentials,
)

UPLOAD_BYTES_PER_SECOND = 1_000_000  # a larger body gets this much more time
LONGEST_IDLE = 30.0  # seconds; a firewall may have forgotten an older connection, and a write on it would hang
LARGEST_ANSWER = 64_000_000  # bytes
MOST_REDIRECTS = 3

_OWN_HEADERS = {"User-Agent": f"nexus-tasks/{__version__}", "Accept-Encoding": "gzip, deflate"}
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
        self._sendable = can_be_sent(self._headers)

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        json: Any = None,
        data: Body | bytes | Mapping[str, str] | None = None,
        files: Files | None = None,
        headers: Mapping[str, str] | None = None,
        writes: bool | None = None,
    ) -> Answer:
        """One call, and its whole answer, whatever its status; `path` is below the base address, without a query.

        `writes` says that the call changes something, which every method but GET and HEAD is taken to do: such a call
        is never redirected. Other calls follow a redirect on the same host. Raises `TransientError` or
        `ConfigurationError` when there is no whole answer. `json`, `data` and `files` are as requests has them, and
        `data` may be a `Body`, which was encoded before; files are given as bytes, so that a second try sends them
        again. `params` that hold for a short while only are given as a function, which is called after the wait for
        the call's turn.
        """
        call = Call(self.service, method, path)
        if not self._sendable:
            raise unsendable_credentials(call)
        if writes is None:
            writes = method not in {"GET", "HEAD"}
        certificates = _certificates()
        try:
            body = _body(json, data, files)
            request = self._prepared(method, path, body, headers or {})
        except (requests.RequestException, ValueError) as error:
            failure = broken_call(error, call, seconds=0, expired=False)
        else:
            check = _before_call.get()
            if check is not None:
                check()
            if params is not None:
                query = encoded(params() if callable(params) else params).decode("ascii")
                request.url = f"{request.url}?{query}" if query else request.url
            with Deadline(call_deadline(0 if body is None else len(body))) as deadline:
                for _ in range(MOST_REDIRECTS):
                    answer = self._send(request, call, deadline, certificates)
                    try:
                        target = _redirect_on_same_host(request.url, answer)
                    except ValueError as error:  # to no address
                        failure = broken_call(error, call, seconds=deadline.seconds, expired=False)
                        break
                    if writes or target is None:
                        return answer
                    request.url = target
                else:
                    failure = refusal(answer)
        raise failure

    def _prepared(
        self, method: str, path: str, body: Body | None, headers: Mapping[str, str]
    ) -> requests.PreparedRequest:
        """The request as requests would prepare it; raises `requests.RequestException`."""
        own = _OWN_HEADERS
        if body is not None:
            own = own | {"Content-Length": str(len(body))}
            if body.content_type is not None:
                own["Content-Type"] = body.content_type
        elif method not in {"GET", "HEAD"}:
            own = own | {"Content-Length": "0"}
        for header in headers.items():
            check_header_validity(header)
        given = (*own.items(), *self._headers.items(), *headers.items())
        named = {name.lower(): (name, value) for name, value in given}  # the last one of a name counts
        request = requests.PreparedRequest()
        request.method = method
        request.url = address(self._base_url, path)
        request.headers = CaseInsensitiveDict(named.values())
        request.body = None if body is None else body.sent()  # type: ignore[assignment] # parts are sent one by one
        return request

    def _send(
        self, request: requests.PreparedRequest, call: Call, deadline: Deadline, certificates: str | bool
    ) -> Answer:
        settings, proxies = get_settings(), _proxies(self.service)
        failure: ExportError
        try:
            response = _connection(self._base_url, certificates).send(
                request,
                timeout=(settings.NX_CONNECT_TIMEOUT, deadline.seconds),
                verify=certificates,
                proxies=proxies,
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


def _connection(base_url: str, certificates: str | bool) -> DeadlineAdapter:
    """The kept-alive connection of this thread to the host of `base_url`, a new one if it was idle for long."""
    if getattr(_connections, "process", None) != os.getpid():
        # Forked: the parent goes on using its connections, so they are dropped here without a word on the wire.
        _connections.process = os.getpid()
        _connections.adapters = {}
    adapters: dict[tuple[str, str | bool], tuple[DeadlineAdapter, float]] = _connections.adapters
    parts, now = urlsplit(base_url), time.monotonic()
    host = f"{parts.scheme}://{parts.netloc}", certificates
    adapter, last_used = adapters.get(host, (None, 0.0))
    if adapter is not None and now - last_used > LONGEST_IDLE:
        adapter.close()
        adapter = None
    if adapter is None:
        adapter = DeadlineAdapter()
    adapters[host] = (adapter, now)
    return adapter


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


def _body(json: Any, data: Body | bytes | Mapping[str, str] | None, files: Files | None) -> Body | None:
    if files:
        return multipart_body(data if isinstance(data, Mapping) else {}, files)
    if isinstance(data, Body):
        return data
    if data:
        return Body((data,)) if isinstance(data, bytes) else form_body(data)
    return None if json is None else json_body(json)


def _redirect_on_same_host(url: str | None, answer: Answer) -> str | None:
    location = answer.headers.get("location")
    if answer.status not in {301, 302, 303, 307, 308} or not location or url is None:
        return None
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url), urlsplit(target)
    except ValueError:  # it is no address
        return None
    return target if (here.scheme, here.netloc) == (there.scheme, there.netloc) else None
