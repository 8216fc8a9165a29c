"""Sends a record to a CDCS repository: the primary destination, whose links the notebooks show; called by workers.

One POST makes the record and puts it into its workspace. Which template and workspace those are is asked by title, and
remembered for ten minutes. The XML goes as it is in the file; CDCS validates it.
"""

from collections.abc import Callable
from typing import Any

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.http import ServiceSession, open_session
from nexus_tasks.exporters.http_failures import Answer, Service, refusal, wrong_address
from nexus_tasks.exporters.record_file import read_record_text
from nexus_tasks.exporters.required_settings import all_set, check_set, value_of
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.title import record_title

_SERVICE = Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN")
_NEEDED = ("NX_CDCS_URL", "NX_CDCS_TOKEN")
# What CDCS passes on of its database or queue being away. Whatever else a JSON 500 says is about the record.
_BACKEND_IS_AWAY = (
    "server closed the connection",
    "connection refused",
    "connection already closed",
    "connection is closed",
    "connection timed out",
    "connection to server",
    "could not connect",
    "terminating connection",
    "lost connection",
    "database connection",
    "database is locked",
    "database system is",
    "deadlock detected",
    "too many clients",
    "connection slots",
    "error 111 connecting",
)
_NO_RIGHT_TO_PUBLISH = "rights to publish"


class CDCSDestination:
    """CDCS, as `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "cdcs"
    priority = 100
    depends_on: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._ids = ShortMemory()

    @property
    def enabled(self) -> bool:
        """Whether its address and token are set."""
        return all_set(*_NEEDED)

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        valid, problem = check_set("CDCS", *_NEEDED)
        if valid and value_of("NX_CDCS_URL").endswith("/rest"):
            return False, "NX_CDCS_URL must be the address of the site, without /rest at its end."
        return valid, problem

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        url, token = value_of("NX_CDCS_URL"), value_of("NX_CDCS_TOKEN")
        session = open_session(_SERVICE, url, headers={"Authorization": f"Token {token}"}, secrets=(token,))
        title, xml = record_title(context), read_record_text(context)
        if context.checkpoint.get("record") is None:  # ask before anything counts as begun
            self._template(session)
            self._workspace(session)
        record_id = context.checkpoint.create("record", lambda: self._create_record(session, title, xml))
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=record_id,
            record_url=f"{url}/data?id={record_id}",
            metadata={
                "title": title,
                "template_id": self._ids.get(_template_key()),
                "workspace_id": self._ids.get(_workspace_key()),
            },
        )

    def _create_record(self, session: ServiceSession, title: str, xml: str) -> str:
        answer = self._post(session, title, xml)
        if answer.status == 400 and _is_about_ids(answer):
            self._ids.forget()  # another template version, or another server: ask once more
            answer = self._post(session, title, xml)
            if answer.status == 400 and _is_about_ids(answer):
                raise ConfigurationError(
                    "CDCS refuses the template or the workspace: check NX_CDCS_TEMPLATE_TITLE and "
                    f"NX_CDCS_WORKSPACE_TITLE. It says: {answer.message}"
                )
        if answer.status != 201:
            raise _refusal(answer)
        record = answer.json()
        identifier = record.get("id") if isinstance(record, dict) else None
        if identifier in (None, ""):
            raise TransientError(f"CDCS answered without the id of the record it made ({answer.call}).")
        return str(identifier)

    def _post(self, session: ServiceSession, title: str, xml: str) -> Answer:
        record = {
            "template": self._template(session),
            "title": title,
            "xml_content": xml,
            "workspace": self._workspace(session),
        }
        return session.call("POST", "rest/data/", json=record)

    def _template(self, session: ServiceSession) -> str:
        key = _template_key()
        title = key[-1]

        def look_up() -> str:
            for template in _listed(session, "rest/template-version-manager/global/", {"title": title}):
                if template.get("title") == title and not template.get("is_disabled") and template.get("current"):
                    return str(template["current"])
            raise ConfigurationError(
                f"CDCS has no template titled {title!r}: check NX_CDCS_TEMPLATE_TITLE, or add the template."
            )

        return self._remembered(key, look_up)

    def _workspace(self, session: ServiceSession) -> str:
        key = _workspace_key()
        title = key[-1]

        def look_up() -> str:
            for workspace in _listed(session, "rest/workspace/read_access/", {}):
                if workspace.get("title") == title and workspace.get("id") is not None:
                    return str(workspace["id"])
            raise ConfigurationError(
                f"CDCS shows us no workspace titled {title!r}: check NX_CDCS_WORKSPACE_TITLE and the rights of the "
                "token's user."
            )

        return self._remembered(key, look_up)

    def _remembered(self, key: tuple[str, str, str], look_up: Callable[[], str]) -> str:
        return self._ids.get(key) or self._ids.put(key, look_up())


def _template_key() -> tuple[str, str, str]:
    return "template", value_of("NX_CDCS_URL"), get_settings().NX_CDCS_TEMPLATE_TITLE


def _workspace_key() -> tuple[str, str, str]:
    return "workspace", value_of("NX_CDCS_URL"), get_settings().NX_CDCS_WORKSPACE_TITLE


def _listed(session: ServiceSession, path: str, params: dict[str, str]) -> list[dict[str, Any]]:
    answer = session.call("GET", path, params=params)
    if answer.status == 404:
        raise wrong_address(answer)
    if answer.status != 200:
        raise _refusal(answer)
    found = answer.json()
    if not isinstance(found, list):
        raise TransientError(f"CDCS answered with something that is not a list ({answer.call}).")
    return [item for item in found if isinstance(item, dict)]


def _is_about_ids(answer: Answer) -> bool:
    try:
        message = answer.json().get("message")
    except (TransientError, AttributeError):
        return False
    if isinstance(message, dict):
        return bool({"template", "workspace"} & message.keys())
    return isinstance(message, str) and ("template" in message.lower() or "workspace" in message.lower())


def _refusal(answer: Answer) -> ExportError:
    """CDCS answers 500 both when it is broken and when it refuses a record: its JSON tells which."""
    said = answer.message
    if answer.status != 500 or not answer.is_json or not said:
        return refusal(answer)
    if any(words in said.lower() for words in _BACKEND_IS_AWAY):
        return TransientError(f"CDCS has lost something it needs ({answer.call}). It says: {said}", answer.retry_after)
    if _NO_RIGHT_TO_PUBLISH in said.lower():
        return ConfigurationError(
            "CDCS does not let the token's user publish to the workspace: check NX_CDCS_WORKSPACE_TITLE and the "
            f"user's rights. It says: {said}"
        )
    return PermanentError(f"CDCS refused the record ({answer.call}). It says: {said}")
