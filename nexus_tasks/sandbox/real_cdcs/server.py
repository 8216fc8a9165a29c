"""Runs a real CDCS in a folder, on loopback; called by `demo --real-cdcs` and the live tests.

Everybody may know the accounts' passwords and tokens, they stand here: the site is for looking at, and for nobody else.
"""

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import requests

from nexus_tasks.builder.schema import OWN_SCHEMA
from nexus_tasks.sandbox.embedded import EmbeddedServer
from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.process_error import ProcessError

TEMPLATE_TITLE = "Nexus Experiment Schema"
WORKSPACE_TITLE = "Global Public Workspace"  # CDCS makes it by itself
PREPARE_DEADLINE_S = 120  # tables and accounts; usually 5 s
START_DEADLINE_S = 60  # usually 3 s
DESCRIPTION = "site.json"
THREADS = 8  # calls that are answered at once
GRACE_S = 2  # for calls that are under way when it is stopped
CALL_DEADLINE_S = 120  # a record of several megabytes takes its time

# Version 1 of the template, which no record of ours matches: whoever does not take the current version is found out.
OLD_SCHEMA = """<?xml version="1.0" encoding="UTF-8"?>
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:element name="ExperimentOfLongAgo" type="xs:string"/>
</xs:schema>
"""


@dataclass(frozen=True)
class Account:
    """One user of the site, with the token for CDCS's REST interface."""

    name: str
    password: str
    token: str
    administrator: bool = False
    may_publish: bool = True  # to public workspaces; CDCS has one right for all of them


ADMINISTRATOR = Account("admin", "admin-of-the-sandbox", "everybody-knows-the-administrators-token", administrator=True)
CURATOR = Account("curator", "curator-of-the-sandbox", "everybody-knows-the-curators-token")
ACCOUNTS = (CURATOR, ADMINISTRATOR)


@dataclass(frozen=True)
class Template:
    """A global template; the last version is the current one."""

    title: str
    versions: Sequence[str]  # XML Schema documents


@dataclass(frozen=True)
class Site:
    """What `site.json` holds for `cdcs_site`."""

    secret_key: str
    accounts: Sequence[Account]
    templates: Sequence[Template]
    settings: Mapping[str, Any]  # of Django, in place of those in `cdcs_site.settings`


class RealCdcs(EmbeddedServer):
    """CDCS in `folder`, run by `python` of `environment.ensure_environment`; see `EmbeddedServer`.

    `schema` is the current version of the template that records belong to, by default the project's own;
    `settings` are Django's, in place of those in `cdcs_site.settings`.
    """

    title = "CDCS"

    def __init__(
        self,
        folder: Path,
        python: Path,
        *,
        schema: Path = OWN_SCHEMA,
        more_accounts: Sequence[Account] = (),
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__(folder)
        self._python = python
        self._accounts = (*ACCOUNTS, *more_accounts)
        self._schema = schema
        self._settings = dict(settings)

    @property
    def url(self) -> str:
        """The address of its pages, and of `/rest/` below it."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, account: Account = CURATOR) -> dict[str, str]:
        """The `NX_*` settings that lead to it."""
        return {
            "NX_CDCS_URL": self.url,
            "NX_CDCS_TOKEN": account.token,
            "NX_CDCS_TEMPLATE_TITLE": TEMPLATE_TITLE,
            "NX_CDCS_WORKSPACE_TITLE": WORKSPACE_TITLE,
        }

    def start(self) -> None:
        """See `EmbeddedServer.start`; the first time the database is made before."""
        if not (self.data / DESCRIPTION).is_file():
            self._prepare()
        self._start_on_a_port()

    def _prepare(self) -> None:
        """Make the database beside the place where it belongs, so that a half-made one is never used."""
        new = self.folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)  # its secret key is nobody else's business
        templates = [Template(TEMPLATE_TITLE, [OLD_SCHEMA, self._schema.read_text(encoding="utf-8")])]
        site = Site(secrets.token_urlsafe(48), self._accounts, templates, self._settings)
        (new / DESCRIPTION).write_text(json.dumps(asdict(site)), encoding="utf-8")
        command = [str(self._python), "-m", "cdcs_site.prepare"]
        with ManagedProcess("prepare", command, self.folder, env=_environment(new, "http://127.0.0.1")) as process:
            status = process.wait(PREPARE_DEADLINE_S)
        if status != 0:
            raise ProcessError(f"The database of {self.title} cannot be made: see {process.log_file}")
        new.rename(self.data)

    def _server(self, port: int) -> ManagedProcess:
        url = f"http://127.0.0.1:{port}"
        serving = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", str(THREADS)]
        times = ["--timeout", str(CALL_DEADLINE_S), "--graceful-timeout", str(GRACE_S)]
        return ManagedProcess(
            "cdcs",
            [self._python, "-m", "gunicorn", *serving, *times, "--no-control-socket", "cdcs_site.wsgi"],
            self.folder,
            env=_environment(self.data, url),
            ready=lambda: self._answers(url),
            deadline=START_DEADLINE_S,
        )

    def _answers(self, url: str) -> bool:
        headers = {"Authorization": f"Token {CURATOR.token}"}
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(f"{url}/rest/workspace/read_access/", headers=headers, timeout=5).ok
            except requests.RequestException:
                return False


def _environment(folder: Path, url: str) -> dict[str, str]:
    """What `cdcs_site` needs to know before it can read its description; nothing of our own packages reaches it."""
    return {
        "DJANGO_SETTINGS_MODULE": "cdcs_site.settings",
        "CDCS_SITE_FOLDER": str(folder),
        "CDCS_SITE_URL": url,
        "PYTHONPATH": str(Path(__file__).parent),
    }
