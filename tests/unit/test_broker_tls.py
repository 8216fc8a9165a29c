import ssl
from pathlib import Path

import pytest

from nexus_tasks.broker_tls import tls_of
from nexus_tasks.config import SettingsError


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    file = tmp_path / "authority.pem"
    file.touch()
    return file


@pytest.mark.parametrize(
    "url", ["redis://:secret@db:6379/0", "amqp://nexus:secret@db//", "redis://db/0?health_check=1"]
)
def test_an_address_without_tls_is_left_as_it_is(url: str) -> None:
    assert tls_of(url, "NX_BROKER_URL") == (url, None)


def test_redis_is_checked_name_included_when_the_address_says_nothing() -> None:
    assert tls_of("rediss://:secret@db:6380/0", "NX_BROKER_URL") == (
        "rediss://:secret@db:6380/0",
        {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True},
    )


def test_rabbitmq_is_checked_name_included_when_the_address_says_nothing() -> None:
    assert tls_of("amqps://nexus:secret@db/nexus", "NX_BROKER_URL") == (
        "amqps://nexus:secret@db/nexus",
        {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None},
    )


def test_the_authority_is_taken_out_of_the_address_and_the_rest_stays(authority: Path) -> None:
    for scheme, name in (("rediss", "ssl_ca_certs"), ("amqps", "ca_certs")):
        url, options = tls_of(f"{scheme}://:s%40@db/0?ssl_ca_certs={authority}&x=1", "NX_BROKER_URL")
        assert url == f"{scheme}://:s%40@db/0?x=1"
        assert options is not None
        assert options[name] == str(authority)


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_checking_nothing_has_to_be_asked_for(scheme: str) -> None:
    _, options = tls_of(f"{scheme}://db/0?ssl_cert_reqs=CERT_NONE", "NX_BROKER_URL")
    assert options is not None
    assert ssl.CERT_NONE in options.values()
    assert not options.get("ssl_check_hostname")
    assert "server_hostname" not in options


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:secret@db/0?ssl_ca_certs=/a", "asks for no TLS"),
        ("rediss://:secret@db/0?ssl_ca_certs=/not/there", "/not/there"),
        ("rediss://:secret@db/0?ssl_cert_reqs=sometimes", "CERT_REQUIRED"),
        ("amqps://:secret@db/0?ssl_cafile=/a", "ssl_cafile"),
    ],
)
def test_what_cannot_be_used_is_said_without_the_password(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        tls_of(url, "NX_RESULT_BACKEND_URL")
    assert "NX_RESULT_BACKEND_URL" in str(caught.value)
    assert "secret" not in str(caught.value)
