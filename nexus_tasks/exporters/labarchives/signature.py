"""Signs calls to LabArchives, and takes what signs them out of its words; called by `api` for each one.

As in its ELN API notebook: `sig = base64(HMAC-SHA512(password, akid + method + expires))`. There `method` is the name
of the method alone, and `expires` the moment of the call in milliseconds; LabArchives takes it for two minutes. It
repeats both in its answers, and a proxy's error page may repeat the whole address.
"""

import base64
import hashlib
import hmac
import html
import re
from collections.abc import Iterator
from urllib.parse import unquote

CLOCK_TOLERANCE = 120.0  # seconds that `expires` may be off

_LAYERS = 3  # how often an address may have been quoted, one in the other, on its way into a message
_ESCAPED_IN_JSON = re.compile(r"\\u00([0-9a-fA-F]{2})")
_NAMES = "akid|expires|sig|uid|password|login[-_]or[-_]email"
_ELEMENTS = re.compile(rf"<({_NAMES})\b[^>]*>[^<]*(</\1\s*>)?", re.IGNORECASE)
_PAIRS = re.compile(rf"[?&]?\b({_NAMES})\b[\"'\]]*\s*(=>|[=:])\s*[\"']?[^\s\"'<>&,;)}}\]]*", re.IGNORECASE)


def signature(access_key_id: str, method: str, expires: int, password: str) -> str:
    """The value of `sig`, not yet quoted for an address."""
    text = f"{access_key_id}{method}{expires}"
    return base64.b64encode(hmac.digest(password.encode(), text.encode(), hashlib.sha512)).decode("ascii")


def signed(access_key_id: str, method: str, expires: int, password: str) -> dict[str, str]:
    """The query parameters that sign a call of `method`: a credential for as long as LabArchives takes it."""
    return {
        "akid": access_key_id,
        "expires": str(expires),
        "sig": signature(access_key_id, method, expires, password),
    }


def without_signature(words: str, secrets: tuple[str, ...]) -> str:
    """`words` without the parameters that sign a call and without `secrets`, however either was quoted."""
    for _ in range(_LAYERS):
        words = unquote(html.unescape(words))
        words = _ESCAPED_IN_JSON.sub(lambda found: chr(int(found[1], 16)), words)
    words = _PAIRS.sub(" ", _ELEMENTS.sub(" ", words))
    for spelling in sorted({each for secret in secrets for each in _spellings(secret)}, key=len, reverse=True):
        words = words.replace(spelling, "***")
    return words


def _spellings(secret: str) -> Iterator[str]:
    """How programs write a secret that stood in an address: as it is, plus as space, JSON's slashes, no padding."""
    if secret:
        for spelling in (secret, secret.replace("+", " "), secret.replace("/", "\\/")):
            yield spelling
            yield spelling.rstrip("=") or spelling
