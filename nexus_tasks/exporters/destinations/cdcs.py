"""Sends a record to a CDCS repository: the primary destination, whose links the notebooks show; called by workers.

One POST makes the record and puts it into its workspace; a later content is put in its place by PATCH. Which template
and workspace those are is asked by title, and remembered for ten minutes. The XML goes as it is in the file; CDCS
validates it.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from lxml import etree

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.gone import GoneError, advice_to_recreate
from nexus_tasks.exporters.http import ServiceSession, call_deadline, open_session
from nexus_tasks.exporters.http_failures import Answer, Service, refusal, wrong_address
from nexus_tasks.exporters.record_file import read_record_text
from nexus_tasks.exporters.required_settings import all_set, check_set, value_of
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.steps import Found, Held, Steps, fingerprint
from nexus_tasks.exporters.title import record_title

_SERVICE = Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN")
_NEEDED = ("NX_CDCS_URL", "NX_CDCS_TOKEN")
_WORKSPACES = "rest/workspace/read_access/"
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)
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
    updates = True

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
        with advice_to_recreate(context, self.name):
            return self._export(context)

    def _export(self, context: ExportContext) -> ExportResult:
        url, token = value_of("NX_CDCS_URL"), value_of("NX_CDCS_TOKEN")
        session = open_session(_SERVICE, url, headers={"Authorization": f"Token {token}"}, secrets=(token,))
        title, xml = record_title(context), read_record_text(context)
        steps, content = Steps(context.checkpoint, "record"), fingerprint(title, xml)
        held = self._record(session, steps, context, title, xml)
        if held.content != content:
            steps.begin_update("record")
            _change_record(session, held.identifier, title, xml)
            steps.end_update("record", content)
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=held.identifier,
            record_url=f"{url}/data?id={held.identifier}",
            metadata={
                "done": steps.done,
                "title": title,
                "template_id": self._ids.get(_template_key()),
                "workspace_id": self._ids.get(_workspace_key()),
            },
        )

    def _record(self, session: ServiceSession, steps: Steps, context: ExportContext, title: str, xml: str) -> Held:
        """The record as it stands over there, made if it has to be."""
        try:
            return self._make_record(session, steps, context, title, xml)
        except _IdsRefusedError:
            self._ids.forget()  # another template version, or another server: ask once more
        try:
            return self._make_record(session, steps, context, title, xml)
        except _IdsRefusedError as error:
            raise ConfigurationError(
                "CDCS refuses the template or the workspace: check NX_CDCS_TEMPLATE_TITLE and "
                f"NX_CDCS_WORKSPACE_TITLE. It says: {error}"
            ) from None

    def _make_record(self, session: ServiceSession, steps: Steps, context: ExportContext, title: str, xml: str) -> Held:
        record: dict[str, Any] = {"title": title, "xml_content": xml}
        if context.checkpoint.get("record") is None:  # ask before anything counts as begun
            record |= {"template": self._template(session), "workspace": self._workspace(session)}
        return steps.ensure(
            "record",
            partial(_create_record, session, record),
            find=partial(_find_record, session, title, xml, context.session_identifier),
            content=fingerprint(title, xml),
            seconds=call_deadline(len(json.dumps(record))),
        )

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
            for workspace in _listed(session, _WORKSPACES, {}):
                if workspace.get("title") == title and workspace.get("id") is not None:
                    return str(workspace["id"])
            raise ConfigurationError(
                f"CDCS shows us no workspace titled {title!r}: check NX_CDCS_WORKSPACE_TITLE and the rights of the "
                "token's user."
            )

        return self._remembered(key, look_up)

    def _remembered(self, key: tuple[str, str, str], look_up: Callable[[], str]) -> str:
        return self._ids.get(key) or self._ids.put(key, look_up())


class _IdsRefusedError(PermanentError):
    """CDCS does not know the template or the workspace that we named; nothing was made."""


def _create_record(session: ServiceSession, record: dict[str, Any]) -> str:
    answer = session.call("POST", "rest/data/", json=record)
    if answer.status == 400 and _is_about_ids(answer):
        raise _IdsRefusedError(answer.message)
    if answer.status != 201:
        raise _refusal(answer)
    made = answer.json()
    identifier = made.get("id") if isinstance(made, dict) else None
    if identifier in (None, ""):
        raise TransientError(f"CDCS answered without the id of the record it made ({answer.call}).")
    return str(identifier)


def _change_record(session: ServiceSession, record_id: str, title: str, xml: str) -> None:
    answer = session.call("PATCH", f"rest/data/{record_id}/", json={"title": title, "xml_content": xml})
    if answer.status == 200:
        return
    if answer.status == 404 and answer.is_json:
        raise GoneError(f"Record {record_id} is not in CDCS any more (404): it was deleted there.")
    if answer.status == 404:
        raise wrong_address(answer)
    # A call that has nothing to do with the record tells whether the token is refused, or only the change.
    if answer.status in {401, 403} and session.call("GET", _WORKSPACES).status == 200:
        raise PermanentError(
            f"CDCS does not let the token's user change record {record_id} ({answer.status}): does it belong to "
            f"somebody else? It says: {answer.message}"
        )
    raise _refusal(answer)


def _find_record(session: ServiceSession, title: str, xml: str, session_identifier: str) -> Found | None:
    """The oldest record of this session among all that the token's user can read."""
    query = {"query": {}, "title": title, "all": "true"}
    answer = session.call("POST", "rest/data/query/", json=query, writes=False)
    records = [record for record in _list_of(answer) if record.get("title") == title and _number(record) is not None]
    for record in sorted(records, key=lambda each: _number(each) or 0):
        content = record.get("xml_content")
        # The same title may stand over records of other sessions: identifiers are shortened in it.
        if isinstance(content, str) and (content == xml or session_identifier.strip() in _identifiers_in(content)):
            return Found(str(record["id"]), fingerprint(title, content))
    return None


def _number(record: dict[str, Any]) -> int | None:
    """The record's id, which counts up with time."""
    identifier = str(record.get("id", ""))
    return int(identifier) if identifier.isdecimal() else None


def _identifiers_in(xml: str) -> set[str]:
    """What may be a document's session identifier: its element `id` below the root, without one any whole text."""
    try:
        root = etree.fromstring(xml.encode("utf-8"), _PARSER)
    except (etree.XMLSyntaxError, ValueError):
        return set()
    named = [element.text or "" for element in root.iterchildren("{*}id")]
    texts = named or [str(text) for text in root.itertext()]
    return {text.strip() for text in texts} - {""}


def _template_key() -> tuple[str, str, str]:
    return "template", value_of("NX_CDCS_URL"), get_settings().NX_CDCS_TEMPLATE_TITLE


def _workspace_key() -> tuple[str, str, str]:
    return "workspace", value_of("NX_CDCS_URL"), get_settings().NX_CDCS_WORKSPACE_TITLE


def _listed(session: ServiceSession, path: str, params: dict[str, str]) -> list[dict[str, Any]]:
    answer = session.call("GET", path, params=params)
    return _list_of(answer)


def _list_of(answer: Answer) -> list[dict[str, Any]]:
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
