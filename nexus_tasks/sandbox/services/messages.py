"""One HTTP request and one HTTP response, as the stand-ins see them: the language between server and services."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qs


@dataclass(frozen=True)
class Request:
    """A request that was read to its end."""

    method: str
    path: str  # percent-decoding is left to the services
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Message = field(default_factory=Message)
    body: bytes = b""

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter."""
        return self.query.get(name, [None])[0]

    @property
    def content_type(self) -> str:
        """The Content-Type header exactly as it was sent, or an empty text."""
        return str(self.headers.get("Content-Type", ""))

    def form(self) -> dict[str, list[str]]:
        """The body as a form, empty if it is none."""
        if not self.content_type.startswith("application/x-www-form-urlencoded"):
            return {}
        return parse_qs(self.body.decode("utf-8", "replace"), keep_blank_values=True)


@dataclass(frozen=True)
class Response:
    """What a service answers."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(cls, status: int, value: Any) -> Self:
        """A JSON answer."""
        return cls(status, json.dumps(value, ensure_ascii=False).encode(), "application/json")

    @classmethod
    def html(cls, status: int, text: str) -> Self:
        """A page for a browser, in which no script runs and which loads nothing from elsewhere."""
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-src 'self'"
        return cls(status, text.encode(), "text/html; charset=utf-8", (("Content-Security-Policy", policy),))

    @classmethod
    def xml(cls, status: int, body: bytes) -> Self:
        """An XML answer."""
        return cls(status, body, "application/xml; charset=utf-8")

    def encoded(self, *, close: bool, head_only: bool = False) -> bytes:
        """All that goes over the wire, so that one send carries it; `close` ends the connection after it."""
        lines = [f"HTTP/1.1 {self.status} {reason(self.status)}", f"Content-Length: {len(self.body)}"]
        if self.content_type is not None:
            lines.append(f"Content-Type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if close:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        return head if head_only else head + self.body


def reason(status: int) -> str:
    """The words that go with a status code, `Unknown` for a code that nobody has registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
