"""Says in one sentence what a failed HTTP call means; used by `exporters/http.py` and by the destinations.

Two kinds of failure: a call without a whole answer (`broken_call`), and an answer that refuses (`refusal`). No sentence
holds an address with its query, a header or a body that was sent: a signed address is a credential.
"""

import html
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3.exceptions

from nexus_tasks.exporters.base import ConfigurationError, ExportError, NothingDoneError, PermanentError, TransientError

LONGEST_MESSAGE = 300  # characters of a service's own words that a message repeats
_WAITABLE = {408, 425, 429}
_PROXY_DOES_NOT_LET_IN = 407
_NOT_LET_IN = {401, 403, _PROXY_DOES_NOT_LET_IN}
_BLOCKS = re.compile(r"<(script|style|head)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(r"<[^>]*>")
_SENDABLE = re.compile(r"(?!\s)[\t\x20-\x7e\x80-\xff]*")  # what a header's value can be
_QUERIES = re.compile(r"\?[^\s\"'<>]*=[^\s\"'<>]*")


_DID_NOT_ANSWER = "{name} did not answer within {seconds:.3g} s ({call})."
# The first that fits counts; the order matters, since one error may be caused by several of these.
_BROKEN_CALLS: tuple[tuple[tuple[type[BaseException], ...], type[ExportError], str], ...] = (
    (
        (ssl.SSLCertVerificationError,),
        ConfigurationError,
        "The certificate of {name} is not trusted ({call}): check {setting}, or set NX_CA_BUNDLE to what to trust.",
    ),
    (
        (requests.exceptions.SSLError, ssl.SSLError),
        TransientError,
        "No TLS connection with {name} ({call}): check that {setting} is right about http and https.",
    ),
    (
        (urllib3.exceptions.NameResolutionError,),
        NothingDoneError,
        "The host name of {name} is not known ({call}): check {setting} and the name service.",
    ),
    (
        (ConnectionRefusedError,),
        NothingDoneError,
        "{name} refused the connection ({call}): check that it runs where {setting} says.",
    ),
    (
        (urllib3.exceptions.NewConnectionError,),
        NothingDoneError,
        "{name} cannot be reached ({call}): check {setting} and the network.",
    ),
    (
        (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError),
        NothingDoneError,
        "{name} cannot be reached, the connection timed out ({call}): check {setting} and the network.",
    ),
    ((requests.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError), TransientError, _DID_NOT_ANSWER),
    (
        (
            requests.exceptions.InvalidURL,
            requests.exceptions.MissingSchema,
            requests.exceptions.InvalidSchema,
            urllib3.exceptions.LocationValueError,
        ),
        ConfigurationError,
        "The address of {name} is not usable ({call}): check {setting}.",
    ),
    (
        (requests.exceptions.InvalidHeader, UnicodeEncodeError),
        PermanentError,
        "A header of this record holds what cannot be sent to {name} ({call}); nothing was sent.",
    ),
)


@dataclass(frozen=True)
class Service:
    """How messages name a service, and the settings that they tell people to check.

    `destination` is the name of the destination that calls it, by which `NX_PROXIES` names a proxy for it.
    """

    name: str
    url_setting: str
    credential_settings: str
    destination: str | None = None


@dataclass(frozen=True)
class Call:
    """One HTTP call, as messages name it: the path without its query."""

    service: Service
    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """What a service answered, whole; header names are in lower case."""

    call: Call
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)  # never repeated in a message

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", errors="replace")

    def json(self) -> Any:
        """The body as JSON; raises `TransientError` when it is something else, such as a page of a proxy."""
        try:
            return json.loads(self.body)
        except ValueError:
            pass
        raise TransientError(f"{self.call.service.name} answered with something that is not JSON ({self.call}).")

    @property
    def is_json(self) -> bool:
        """Whether the body is a JSON object or list."""
        try:
            return isinstance(json.loads(self.body), dict | list)
        except ValueError:
            return False

    @property
    def message(self) -> str:
        """The service's own words: short, without markup, addresses' queries and secrets; may be empty."""
        return plain_message(_words(self.body, self.text), self.secrets)

    @property
    def retry_after(self) -> float | None:
        """The seconds that the service asks to wait (`Retry-After`), or None."""
        return parse_retry_after(self.headers.get("retry-after"))


def plain_message(words: str, secrets: tuple[str, ...] = ()) -> str:
    """A service's words as they may be shown: no markup, no queries, no secrets, at most `LONGEST_MESSAGE` long."""
    plain = html.unescape(_TAGS.sub(" ", _BLOCKS.sub(" ", words)))
    plain = _QUERIES.sub("?…", plain)
    for secret in secrets:
        if secret:
            plain = plain.replace(secret, "***")
    plain = " ".join(plain.split())
    return plain if len(plain) <= LONGEST_MESSAGE else plain[: LONGEST_MESSAGE - 1] + "…"


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a `Retry-After` header, which holds seconds or an HTTP date; None if it holds neither."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def refusal(answer: Answer) -> ExportError:
    """What an answer that is not a success means, where the service gives it no meaning of its own."""
    service, said = answer.call.service, f" It says: {answer.message}" if answer.message else ""
    if answer.status in _NOT_LET_IN:
        name, settings = service.name, service.credential_settings
        if answer.status == _PROXY_DOES_NOT_LET_IN:
            name, settings = f"The proxy before {name}", "user and password in NX_PROXIES"
        return ConfigurationError(
            f"{name} does not let us in ({answer.status} to {answer.call}): check {settings}.{said}"
        )
    if answer.status == 429:
        return NothingDoneError(
            f"{service.name} asks for fewer calls (429 to {answer.call}).{said}", answer.retry_after
        )
    if answer.status in _WAITABLE or answer.status >= 500:
        return TransientError(
            f"{service.name} could not answer ({answer.status} to {answer.call}).{said}", answer.retry_after
        )
    if 300 <= answer.status < 400:
        return ConfigurationError(
            f"{service.name} sends {answer.call} to another address ({answer.status}), which is not followed: "
            f"check {service.url_setting}, for example https instead of http."
        )
    if answer.status >= 400:
        return PermanentError(f"{service.name} refused {answer.call} ({answer.status}).{said}")
    return TransientError(f"{service.name} gave an answer that was not expected ({answer.status} to {answer.call}).")


def wrong_address(answer: Answer) -> ConfigurationError:
    """What a 404 means for a call that every server of this kind knows."""
    service = answer.call.service
    return ConfigurationError(
        f"There is no {service.name} at the address that was called ({answer.status} to {answer.call}): "
        f"check {service.url_setting}."
    )


def can_be_sent(headers: Mapping[str, str]) -> bool:
    """Whether the values of `headers` are what HTTP can carry."""
    return all(_SENDABLE.fullmatch(value) for value in headers.values())


def unsendable_credentials(call: Call) -> ConfigurationError:
    """What it means that the headers which go with every call cannot be sent."""
    service = call.service
    return ConfigurationError(
        f"The credentials of {service.name} hold a line break, or a dash, a quote or the like that is not plain text, "
        f"and cannot be sent ({call}): check {service.credential_settings}."
    )


def broken_call(error: Exception, call: Call, *, seconds: float, expired: bool, proxied: bool = False) -> ExportError:
    """What it means that `call` ended without a whole answer; `seconds` is its total deadline.

    `proxied`: it was to go through a proxy, which may be what is wrong.
    """
    hint = " It is called through a proxy: check NX_PROXIES, too." if proxied else ""
    causes = list(_causes(error))
    for kinds, failure, sentence in _BROKEN_CALLS:
        if any(isinstance(cause, kinds) for cause in causes) and (failure is NothingDoneError or not expired):
            return failure(
                sentence.format(name=call.service.name, call=call, setting=call.service.url_setting, seconds=seconds)
                + hint
            )
    if expired:
        return did_not_answer(call, seconds)
    return TransientError(
        f"{call.service.name} broke off before its answer was complete ({call}); it may have done what was asked.{hint}"
    )


def did_not_answer(call: Call, seconds: float) -> TransientError:
    """The deadline of `call` is over; the service may have done what was asked."""
    return TransientError(_DID_NOT_ANSWER.format(name=call.service.name, seconds=seconds, call=call))


def _words(body: bytes, text: str) -> str:
    try:
        data = json.loads(body)
    except ValueError:
        return text
    if isinstance(data, dict):
        for key in ("message", "detail", "description", "error"):
            if data.get(key):
                said = _flat(data[key])
                more = data.get("description")
                return f"{said} {more}" if key == "message" and isinstance(more, str) and more != said else said
    return _flat(data)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_flat(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_flat(part) for part in value)
    return str(value)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
