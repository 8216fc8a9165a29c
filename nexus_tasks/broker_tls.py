"""What an address says about TLS, as Celery wants to be told; called by `celery` for the broker and for its results.

`rediss://` and `amqps://` mean an encrypted connection to a server whose certificate is checked, name included. Left to
themselves, Celery and kombu check nothing for `rediss://`, and do not know the names of these options for `amqps://`.
"""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from nexus_tasks.config import Settings, SettingsError

REDIS, RABBITMQ = "rediss", "amqps"
FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
CHECKS = {"CERT_REQUIRED": ssl.CERT_REQUIRED, "CERT_NONE": ssl.CERT_NONE}
CHECKS |= {"required": ssl.CERT_REQUIRED, "none": ssl.CERT_NONE}
KNOWN = FILES | {"ssl_cert_reqs"}


def broker_of(settings: Settings) -> tuple[str, dict[str, Any] | None]:
    """The broker, as `tls_of` has it. Raises `SettingsError`."""
    return tls_of(settings.broker_url, "NX_BROKER_URL")


def results_of(settings: Settings) -> tuple[str, dict[str, Any] | None]:
    """Where Celery keeps results, as `tls_of` has it. Raises `SettingsError`."""
    setting = "NX_RESULT_BACKEND_URL" if settings.NX_RESULT_BACKEND_URL else "NX_BROKER_URL"
    return tls_of(settings.result_backend_url, setting)


def tls_of(url: str, setting: str) -> tuple[str, dict[str, Any] | None]:
    """The address without its TLS options, and these as `broker_use_ssl` takes them; None without TLS.

    In the address may stand `ssl_ca_certs` (a file; the system's certificates when it is left out), `ssl_certfile` and
    `ssl_keyfile` (of the client), and `ssl_cert_reqs=CERT_NONE`, which checks nothing.

    Raises `SettingsError`, which names `setting` and no part of the address but the option.
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query)
    given = {name: value for name, value in pairs if name.startswith("ssl_")}
    if parts.scheme not in {REDIS, RABBITMQ}:
        if given:
            raise SettingsError(
                f"{setting} has TLS options, but asks for no TLS: begin it with {REDIS}:// or {RABBITMQ}://."
            )
        return url, None
    _refuse_unusable(given, setting)
    checks = CHECKS[given.get("ssl_cert_reqs", "CERT_REQUIRED")]
    files = {name: given[name] for name in sorted(FILES & set(given))}
    plain = parts._replace(query=urlencode([pair for pair in pairs if pair[0] not in given])).geturl()
    checked = checks is ssl.CERT_REQUIRED
    if parts.scheme == REDIS:
        return plain, {**files, "ssl_cert_reqs": checks, "ssl_check_hostname": checked}
    unprefixed = {name.removeprefix("ssl_"): value for name, value in files.items()}
    # None is the host in the address, for kombu; without a name none is checked
    return plain, {**unprefixed, "cert_reqs": checks, **({"server_hostname": None} if checked else {})}


def _refuse_unusable(given: dict[str, str], setting: str) -> None:
    for name, value in given.items():
        if name not in KNOWN:
            raise SettingsError(f"{setting} has an unknown TLS option {name}: there are {', '.join(sorted(KNOWN))}.")
        if name == "ssl_cert_reqs" and value not in CHECKS:
            raise SettingsError(
                f"{setting} has a wrong ssl_cert_reqs: CERT_REQUIRED, which is the default, or CERT_NONE."
            )
        if name in FILES and not Path(value).is_file():
            raise SettingsError(f"{setting} names a file in {name} that is not there: {value}.")
