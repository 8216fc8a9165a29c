"""Who may call LabArchives, and how a call is signed; used by `service`, `rest` and whoever starts the stand-in."""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Account:
    """The access key, the user and the notebook that the stand-in knows."""

    akid: str
    password: str = field(repr=False)
    uid: str = field(repr=False)
    nbid: str
    login: str = "sandbox@example.org"
    login_password: str = field(default="sandbox-login-code", repr=False)


def signature(password: str, akid: str, method: str, expires: str) -> str:
    """The signature of a call, base64; `method` is the method's name alone, `expires` epoch milliseconds."""
    digest = hmac.new(password.encode(), f"{akid}{method}{expires}".encode(), hashlib.sha512).digest()
    return base64.b64encode(digest).decode()
