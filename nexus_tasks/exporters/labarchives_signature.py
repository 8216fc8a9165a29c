"""Signs calls to LabArchives; called by `labarchives_api.py` for each one.

As in its ELN API notebook: `sig = base64(HMAC-SHA512(password, akid + method + expires))`. There `method` is the name
of the method alone, and `expires` the moment of the call in milliseconds; LabArchives takes it for two minutes.
"""

import base64
import hashlib
import hmac


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
