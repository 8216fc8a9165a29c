"""Makes the bodies and addresses of HTTP calls, each encoded once; used by `exporters/http.py`.

Byte for byte what `urllib.parse.urlencode` and requests make, which look at every byte in Python: a notebook entry
holds hundreds of kilobytes of pictures.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus

import requests
from urllib3.filepost import encode_multipart_formdata

_UNQUOTED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"
_SHORT = 200  # characters up to which the standard library is quicker
_PLAIN_PATH = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/")

Files = Mapping[str, tuple[str, bytes, str]]  # by field: file name, content, content type


@dataclass(frozen=True)
class Body:
    """What a call sends, and what kind of thing that is."""

    content: bytes
    content_type: str | None = None  # None: as the headers of the call say

    def __len__(self) -> int:
        return len(self.content)


def json_body(document: Any) -> Body:
    """A JSON document; raises `ValueError` for what JSON has no number for."""
    return Body(json.dumps(document, allow_nan=False).encode("utf-8"), "application/json")


def form_body(fields: Mapping[str, str]) -> Body:
    """The fields of a form."""
    return Body(encoded(fields), "application/x-www-form-urlencoded")


def multipart_body(fields: Mapping[str, str], files: Files) -> Body:
    """A form with files in it."""
    parts: list[Any] = [*fields.items(), *files.items()]
    content, content_type = encode_multipart_formdata(parts)
    return Body(content, content_type)


def encoded(fields: Mapping[str, str]) -> bytes:
    """As `urllib.parse.urlencode` encodes them, for an address or a form."""
    return b"&".join(_quoted(name) + b"=" + _quoted(value) for name, value in fields.items())


def _quoted(text: str) -> bytes:
    """As `urllib.parse.quote_plus`: a byte that has to be quoted is replaced wherever it stands, then the next one."""
    if len(text) <= _SHORT:
        return quote_plus(text).encode("ascii")
    content = text.encode("utf-8")
    to_quote = set(content.translate(None, _UNQUOTED))
    if ord("%") in to_quote:  # first, since the others bring more of it
        content = content.replace(b"%", b"%25")
    for byte in sorted(to_quote - {ord("%"), ord(" ")}):
        content = content.replace(bytes([byte]), b"%%%02X" % byte)
    return content.replace(b" ", b"+")


def address(base_url: str, path: str) -> str:
    """The address of `path` below `base_url`, which ends with a slash; raises `requests.RequestException`."""
    path = path.lstrip("/")
    if _PLAIN_PATH.issuperset(path):
        return _prepared(base_url) + path
    return _prepared.__wrapped__(base_url + path)


@lru_cache(maxsize=16)
def _prepared(url: str) -> str:
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    return request.url or ""
