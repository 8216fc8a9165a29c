"""A stand-in for CDCS that differs from the usual one, named by the settings; used by the tests of CDCS's extras."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.destinations.cdcs import CDCSDestination
from nexus_tasks.sandbox.services.cdcs.service import Cdcs
from nexus_tasks.sandbox.services.server import StandInServer
from nexus_tasks.sandbox.services.standins import CDCS_TOKEN
from tests.integration.exporters.conftest import Destination

XSD = b"""<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:element name="Experiment"><xs:complexType><xs:sequence>
    <xs:element name="id" type="xs:string"/>
    <xs:element name="summary" type="xs:token"/>
  </xs:sequence></xs:complexType></xs:element>
</xs:schema>"""


@contextmanager
def cdcs_site(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Destination]:
    """The destination with its stand-in; `options` are those of `Cdcs`."""
    server = StandInServer(Cdcs(CDCS_TOKEN, **options), 0, "127.0.0.1")
    server.start()
    try:
        configure(monkeypatch, NX_CDCS_URL=server.url, NX_CDCS_TOKEN=CDCS_TOKEN)
        yield Destination(CDCSDestination(), server)
    finally:
        server.stop()
        monkeypatch.undo()
        get_settings.cache_clear()


def configure(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
