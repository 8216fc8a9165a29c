"""Makes the bodies and addresses of HTTP calls, each encoded once; used by `exporters/http.py`.

Byte for byte what `urllib.parse.urlencode` and requests make, which look at every byte in Python: a notebook entry
holds hundreds of kilobytes of pictures.
"""

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import requests
from urllib3.fields import RequestField
from urllib3.filepost import choose_boundary

FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"
_IN_ONE_PIECE = 1_000_000  # bytes up to which copying is quicker than sending part by part
_PIECE = 1_000_000  # bytes of a long text that are escaped at once

_UNQUOTED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"
_PLAIN_PATH = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/")

Files = Mapping[str, tuple[str, bytes, str]]  # by field: file name, content, content type


@dataclass(frozen=True)
class Body:
    """What a call sends, and what kind of thing that is.

    In parts, so that a large document need not be copied into a whole.
    """

    parts: tuple[bytes, ...]
    content_type: str | None = None  # None: as the headers of the call say

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def sent(self) -> bytes | tuple[bytes, ...]:
        """As it is sent, again and again: a small one in one piece."""
        return b"".join(self.parts) if len(self) <= _IN_ONE_PIECE else self.parts


def json_body(document: Any, **text: bytes) -> Body:
    """A JSON document; raises `ValueError` for what JSON has no number for.

    `text` is one more value of it, a long one, in UTF-8. Raises `UnicodeDecodeError`.
    """
    content = json.dumps(document, allow_nan=False)
    if not text:
        return Body((content.encode("utf-8"),), _JSON)
    ((name, value),) = text.items()
    decode = codecs.getincrementaldecoder("utf-8")().decode  # a piece may end inside a character
    ends = range(_PIECE, len(value) + _PIECE, _PIECE)
    pieces = (decode(value[end - _PIECE : end], end >= len(value)) for end in ends)
    escaped = tuple(json.dumps(piece)[1:-1].encode("ascii") for piece in pieces)
    begun = content[:-1] + (", " if document else "")
    return Body((f'{begun}{json.dumps(name)}: "'.encode(), *escaped, b'"}'), _JSON)


def form_body(fields: Mapping[str, str]) -> Body:
    """The fields of a form."""
    return Body((encoded(fields),), FORM)


def multipart_body(fields: Mapping[str, str], files: Files) -> Body:
    """A form with files in it."""
    boundary = choose_boundary()
    named: list[tuple[str, str | tuple[str, bytes, str]]] = [*fields.items(), *files.items()]
    parts: list[bytes] = []
    for name, value in named:
        field = RequestField.from_tuples(name, value)
        content = field.data.encode("utf-8") if isinstance(field.data, str) else field.data
        parts += [f"--{boundary}\r\n{field.render_headers()}".encode(), content, b"\r\n"]
    return Body((*parts, f"--{boundary}--\r\n".encode()), f"multipart/form-data; boundary={boundary}")


def encoded(fields: Mapping[str, str]) -> bytes:
    """As `urllib.parse.urlencode` encodes them, for an address or a form."""
    return b"&".join(quoted(name) + b"=" + quoted(value) for name, value in fields.items())


def quoted(text: str) -> bytes:
    """As `urllib.parse.quote_plus`: a byte that has to be quoted is replaced wherever it stands, then the next one.

    The parts of a long text are quicker one by one where few different bytes have to be quoted in each.
    """
    content = text.encode("utf-8")
    to_quote = set(content.translate(None, _UNQUOTED))
    if not to_quote:
        return content
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
