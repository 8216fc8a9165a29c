"""The three stand-ins together, with credentials that everybody may know; tests and the demo start them here."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from nexus_tasks.sandbox.services.cdcs.service import Cdcs
from nexus_tasks.sandbox.services.elabftw.installation import VERSION
from nexus_tasks.sandbox.services.elabftw.service import Elabftw
from nexus_tasks.sandbox.services.labarchives.account import Account
from nexus_tasks.sandbox.services.labarchives.service import Labarchives
from nexus_tasks.sandbox.services.server import StandInServer

CDCS_TOKEN = "sandbox-cdcs-token"  # noqa: S105 - known to everybody, valid on loopback only
ELABFTW_API_KEY = "7-sandbox-elabftw-key"
LABARCHIVES_ACCOUNT = Account(
    akid="sandbox_akid",
    password="sandbox/labarchives+password",  # noqa: S106 - known to everybody, valid on loopback only
    uid="285489257Ho+sandbox/uid==",
    nbid="NDEuNnwyNy8zMi9TYW5kYm94fDQxLjY=",
)


@dataclass(frozen=True)
class StandIns:
    """CDCS, eLabFTW and LabArchives, each on a port of its own."""

    cdcs: StandInServer
    elabftw: StandInServer
    labarchives: StandInServer

    @classmethod
    def start(
        cls,
        cdcs_port: int = 0,
        elabftw_port: int = 0,
        labarchives_port: int = 0,
        *,
        xsd: Path | None = None,
        elabftw_version: int = VERSION,
        host: str = "127.0.0.1",
    ) -> Self:
        """Start all three in threads; port 0 is any free one.

        `xsd` is the schema against which CDCS validates. Raises ValueError for a host that is not loopback, OSError
        for a port that is taken.
        """
        servers = cls(
            StandInServer(Cdcs(CDCS_TOKEN, None if xsd is None else xsd.read_bytes()), cdcs_port, host),
            StandInServer(Elabftw(ELABFTW_API_KEY, elabftw_version), elabftw_port, host),
            StandInServer(Labarchives(LABARCHIVES_ACCOUNT), labarchives_port, host),
        )
        try:
            for server in servers.servers:
                server.start()
        except OSError:
            servers.stop()
            raise
        return servers

    @property
    def servers(self) -> tuple[StandInServer, StandInServer, StandInServer]:
        """All three, by priority of their destinations' usual order."""
        return self.cdcs, self.elabftw, self.labarchives

    def environment(self) -> dict[str, str]:
        """The `NX_*` settings with which the destinations find them."""
        return {
            "NX_CDCS_URL": self.cdcs.url,
            "NX_CDCS_TOKEN": CDCS_TOKEN,
            "NX_ELABFTW_URL": self.elabftw.url,
            "NX_ELABFTW_API_KEY": ELABFTW_API_KEY,
            "NX_LABARCHIVES_URL": self.labarchives.url,
            "NX_LABARCHIVES_ACCESS_KEY_ID": LABARCHIVES_ACCOUNT.akid,
            "NX_LABARCHIVES_ACCESS_PASSWORD": LABARCHIVES_ACCOUNT.password,
            "NX_LABARCHIVES_USER_ID": LABARCHIVES_ACCOUNT.uid,
            "NX_LABARCHIVES_NOTEBOOK_ID": LABARCHIVES_ACCOUNT.nbid,
        }

    def reset(self) -> None:
        """Make all three forget objects, calls and faults."""
        for server in self.servers:
            server.reset()

    def stop(self) -> None:
        """Close the three servers and all their connections."""
        for server in self.servers:
            server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
