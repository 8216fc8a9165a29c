"""The calls of CDCS's REST interface that an export makes; used by `export` and `checks`.

Each returns what the answer names, or raises what the refusal means. They are the same in core-main-app 2.18 and 2.23.
How the document's field is called is a setting of the site (`BACKWARD_COMPATIBILITY_DATA_XML_CONTENT`): `xml_content`,
or `content`; such a site ignores the other name, without an error when a record is changed.
"""

import re
import secrets
from dataclasses import dataclass, replace
from typing import Any

from nexus_tasks.exporters.base import ConfigurationError, ExportError, PermanentError, TransientError
from nexus_tasks.exporters.gone import GoneError
from nexus_tasks.exporters.http import open_session
from nexus_tasks.exporters.http_body import Body, json_body
from nexus_tasks.exporters.http_failures import Answer, Service, refusal, wrong_address
from nexus_tasks.exporters.short_memory import ShortMemory

_SERVICE = Service("CDCS", "NX_CDCS_URL", "NX_CDCS_TOKEN", "cdcs")
_WORKSPACES = "rest/workspace/read_access/"
_DOCUMENT = "xml_content"
_DOCUMENT_ELSEWHERE = "content"  # its name where the site has given up the older one
_PASSWORD_BYTES = 32
# What a 500 says about a document: of its XML, its size, or the rights to it. Whatever else it says is about what CDCS
# itself needs, such as its database, its queue or its disk.
_ABOUT_THE_RECORD = re.compile(
    r"\bxml(?!_)|\bxsd\b|\bline \d+, column \d+|\belement\b|(?<!no )\battribute '|\bcvc-|\bNUL\b"
    r"|\btsvector\b|\btoo long for type\b|\bindex row\b|\bdocument too large\b|\brequest body exceeded\b"
    r"|\benough rights\b|\bnot have the permission\b",
    re.IGNORECASE,
)
# Of the user: no right to publish at all, and none to write into a workspace that is not public. With the second a
# change is refused, too, where only this record is somebody else's.
_MAY_NOT_PUBLISH = "rights to publish"
_MAY_NOT_WRITE = "permission to write into this workspace"


class IdsRefusedError(PermanentError):
    """CDCS does not know the template or the workspace that we named; nothing was made."""


class NotAnAdministratorError(ConfigurationError):
    """The token's user may not give records to others; everything else may be in order."""


@dataclass(frozen=True)
class Record:
    """A record as it stands over there."""

    number: int  # its id, which counts up with time
    title: str
    xml: str
    template: str | None  # the id of the template version that it belongs to


@dataclass(frozen=True)
class Template:
    """One version of a template."""

    xsd: str | None  # None when it is no XML schema
    hash: str


class NewRecord:
    """A record as it is sent to be made, encoded once under each name that its document's field may have."""

    def __init__(self, title: str, xml: bytes, template: str, workspace: str | None) -> None:
        self._values = {"title": title, "template": template, "workspace": workspace}
        self._xml = xml
        self._encoded: tuple[str, Body] | None = None

    def body(self, field: str = _DOCUMENT) -> Body:
        """What a call sends."""
        if self._encoded is None or self._encoded[0] != field:
            self._encoded = (field, json_body(self._values, **{field: self._xml}))
        return self._encoded[1]


class CdcsApi:
    """Calls to one CDCS with one token; made for one export. `memory` lasts longer: it keeps the document's field."""

    def __init__(self, url: str, token: str, memory: ShortMemory) -> None:
        self._session = open_session(_SERVICE, url, headers={"Authorization": f"Token {token}"}, secrets=(token,))
        self._memory = memory
        self._field_key = ("field of the document", url)

    # --- records

    def create(self, record: NewRecord) -> str:
        """The id of a new record, which is in its workspace at once; raises `IdsRefusedError`."""
        answer = self._session.call("POST", "rest/data/", data=record.body(self._field))
        if answer.status == 400 and _DOCUMENT_ELSEWHERE in _fields_of(answer) and self._field == _DOCUMENT:
            self._memory.put(self._field_key, _DOCUMENT_ELSEWHERE)
            answer = self._session.call("POST", "rest/data/", data=record.body(self._field))
        if answer.status == 400 and _is_about_ids(answer):
            raise IdsRefusedError(answer.message)
        if self._only_this_is_refused(answer):
            raise PermanentError(
                f"CDCS takes the token, but does not let us make this record ({answer.status}): does something on the "
                f"way to it, such as a proxy, refuse the document? It says: {answer.message}"
            )
        if answer.status != 201:
            raise _refusal(answer)
        return _made_id(answer, "record")

    def change(self, record_id: str, title: str, xml: bytes) -> None:
        """Put another content in place; raises `GoneError` for a record that was deleted."""
        path = f"rest/data/{record_id}/"
        answer = self._session.call("PATCH", path, data=json_body({"title": title}, **{self._field: xml}))
        if answer.status == 200 and self._field == _DOCUMENT and _has_document_elsewhere(answer):
            self._memory.put(self._field_key, _DOCUMENT_ELSEWHERE)  # the document was passed over
            answer = self._session.call("PATCH", path, data=json_body({"title": title}, **{self._field: xml}))
        if answer.status == 200:
            return
        raise self._refusal_about(record_id, answer, "change")

    def record(self, record_id: str) -> Record:
        """The record of that id; raises `GoneError` for one that was deleted."""
        answer = self._session.call("GET", f"rest/data/{record_id}/")
        if answer.status != 200:
            raise self._refusal_about(record_id, answer, "read")
        record = _record_in(_object_of(answer))
        if record is None:
            raise _unexpected(answer)
        return record

    def with_title(self, title: str) -> list[Record]:
        """The records with this title, character by character, that the token's user can read; the oldest first."""
        query = {"query": {}, "title": title, "all": "true"}
        found = _list_of(self._session.call("POST", "rest/data/query/", json=query, writes=False))
        records = [record for each in found if (record := _record_in(each)) is not None and record.title == title]
        return sorted(records, key=lambda record: record.number)

    # --- templates and workspaces

    def current_template(self, title: str) -> str:
        """The id of the current version of the template of that title."""
        found = _list_of(self._session.call("GET", "rest/template-version-manager/global/", params={"title": title}))
        managers = [manager for manager in found if manager.get("title") == title]
        for manager in managers:
            if not manager.get("is_disabled") and manager.get("current"):
                return str(manager["current"])
        if managers:
            raise ConfigurationError(
                f"The template titled {title!r} is disabled in CDCS: enable it there, or check NX_CDCS_TEMPLATE_TITLE."
            )
        raise ConfigurationError(
            f"CDCS has no template titled {title!r}: check NX_CDCS_TEMPLATE_TITLE, or add the template."
        )

    def template(self, template_id: str) -> Template:
        """A version of a template, with its schema."""
        answer = self._session.call("GET", f"rest/template/{template_id}/")
        if answer.status != 200:
            raise _refusal(answer)
        found = _object_of(answer)
        content, kind = found.get("content"), found.get("format") or "XSD"
        xsd = content if isinstance(content, str) and kind == "XSD" else None
        return Template(xsd, str(found.get("hash") or ""))

    def workspace(self, title: str) -> dict[str, Any]:
        """The workspace of that title: its `id`, and whether it `is_public`."""
        for workspace in _list_of(self._session.call("GET", _WORKSPACES)):
            if workspace.get("title") == title and workspace.get("id") is not None:
                return workspace
        raise ConfigurationError(
            f"CDCS shows us no workspace titled {title!r}: check NX_CDCS_WORKSPACE_TITLE and the rights of the "
            "token's user."
        )

    # --- owners: for an administrator's token

    def user_named(self, name: str) -> str | None:
        """The id of the user of exactly that name."""
        answer = self._session.call("GET", "rest/user/")
        if answer.status in {401, 403}:
            raise _not_an_administrator(answer)
        for user in _list_of(answer):
            if user.get("username") == name and user.get("id") is not None:
                return str(user["id"])
        return None

    def create_user(self, name: str) -> str:
        """The id of a new user; nobody knows the password, so that only an administrator can let somebody in."""
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        answer = self._session.call("POST", "rest/user/", json={"username": name, "password": password})
        answer = replace(answer, secrets=(*answer.secrets, password))
        if answer.status == 201:
            return _made_id(answer, "user")
        if answer.status in {401, 403}:
            raise _not_an_administrator(answer)
        if answer.status == 400:
            # Another worker may have been quicker.
            there = self.user_named(name)
            if there is not None:
                return there
            raise PermanentError(f"CDCS makes no user named {name!r}. It says: {answer.message}")
        raise _refusal(answer)

    def change_owner(self, record_id: str, user_id: str) -> None:
        """Give a record to a user; repeatable."""
        answer = self._session.call("PATCH", f"rest/data/{record_id}/change-owner/{user_id}")
        if answer.status in {401, 403}:
            raise _not_an_administrator(answer)
        if answer.status != 200:
            raise _refusal(answer)

    # --- for checks: nothing is changed

    def ask(self) -> Answer:
        """A small answer of any CDCS, whatever its status; raises where there is none at the address."""
        answer = self._session.call("GET", _WORKSPACES)
        if answer.status == 404:
            raise wrong_address(answer)
        if answer.status not in {200, 401, 403}:
            raise _refusal(answer)
        return answer

    def version(self) -> str | None:
        """The version of core-main-app, such as 2.23.0, or None where it does not say."""
        answer = self._session.call("GET", "rest/core-settings/")
        if answer.status != 200 or not answer.is_json:
            return None
        version = _object_of(answer).get("core_version")
        return str(version) if version else None

    def is_superuser(self) -> bool:
        """Whether the token's user may do anything; only such a user may list the records of everybody."""
        nothing = f"nexus-tasks-{secrets.token_hex(8)}"  # no record has this title, so that the list is empty
        return self._session.call("GET", "rest/admin/data/", params={"title": nothing}).status == 200

    def may_write(self, workspace_id: str) -> bool:
        """Whether a workspace that is not public is open to the token's user for writing."""
        found = _list_of(self._session.call("GET", "rest/workspace/write_access/"))
        return any(str(workspace.get("id")) == workspace_id for workspace in found)

    def _only_this_is_refused(self, answer: Answer) -> bool:
        """Whether a call that has nothing to do with the record is let in, where this one was not."""
        if answer.status not in {401, 403} or _MAY_NOT_PUBLISH in answer.message.lower():
            return False
        return self._session.call("GET", _WORKSPACES).status == 200

    def _refusal_about(self, record_id: str, answer: Answer, what: str) -> ExportError:
        """What it means that we may not `what` ("read") a record that stood over there."""
        if answer.status == 404 and answer.is_json:
            return GoneError(f"Record {record_id} is not in CDCS any more (404): it was deleted there.")
        if self._only_this_is_refused(answer):
            return PermanentError(
                f"CDCS does not let the token's user {what} record {record_id} ({answer.status}): does it belong to "
                f"somebody else? It says: {answer.message}"
            )
        return _refusal(answer)

    @property
    def _field(self) -> str:
        return self._memory.get(self._field_key) or _DOCUMENT


def refused_token(answer: Answer) -> ExportError | None:
    """What it means when CDCS does not accept the token, None when it does."""
    return refusal(answer) if answer.status in {401, 403} else None


def _record_in(record: dict[str, Any]) -> Record | None:
    """What an answer says of a record, None if that is not what CDCS says of one."""
    number, title, document = str(record.get("id", "")), record.get("title"), _document_in(record)
    if not number.isdecimal() or not isinstance(title, str) or document is None:
        return None
    template = record.get("template")
    return Record(int(number), title, document, None if template is None else str(template))


def _document_in(record: dict[str, Any]) -> str | None:
    document = record.get(_DOCUMENT, record.get(_DOCUMENT_ELSEWHERE))
    return document if isinstance(document, str) else None


def _has_document_elsewhere(answer: Answer) -> bool:
    record = answer.json() if answer.is_json else None
    return isinstance(record, dict) and _DOCUMENT not in record and _DOCUMENT_ELSEWHERE in record


def _made_id(answer: Answer, kind: str) -> str:
    made = answer.json()
    identifier = made.get("id") if isinstance(made, dict) else None
    if identifier in (None, ""):
        raise TransientError(f"CDCS answered without the id of the {kind} it made ({answer.call}).")
    return str(identifier)


def _object_of(answer: Answer) -> dict[str, Any]:
    found = answer.json()
    if not isinstance(found, dict):
        raise _unexpected(answer)
    return found


def _unexpected(answer: Answer) -> TransientError:
    return TransientError(f"CDCS answered with something that was not expected ({answer.call}).")


def _list_of(answer: Answer) -> list[dict[str, Any]]:
    if answer.status == 404:
        raise wrong_address(answer)
    if answer.status != 200:
        raise _refusal(answer)
    found = answer.json()
    if not isinstance(found, list):
        raise TransientError(f"CDCS answered with something that is not a list ({answer.call}).")
    return [item for item in found if isinstance(item, dict)]


def _not_an_administrator(answer: Answer) -> NotAnAdministratorError:
    said = f" It says: {answer.message}" if answer.message else ""
    return NotAnAdministratorError(
        f"CDCS lets only an administrator give records to their users ({answer.status} to {answer.call}): use an "
        f"administrator's token as NX_CDCS_TOKEN, or set NX_CDCS_USER_OWNED_RECORDS to no.{said}"
    )


def _fields_of(answer: Answer) -> set[str]:
    """The fields that a 400 complains about."""
    message = _complaint(answer)
    return set(message) if isinstance(message, dict) else set()


def _is_about_ids(answer: Answer) -> bool:
    message = _complaint(answer)
    if isinstance(message, dict):
        return bool({"template", "workspace"} & message.keys())
    return isinstance(message, str) and ("template" in message.lower() or "workspace" in message.lower())


def _complaint(answer: Answer) -> Any:
    said = answer.json() if answer.is_json else None
    return said.get("message") if isinstance(said, dict) else None


def _refusal(answer: Answer) -> ExportError:
    """CDCS answers 500 both when it is broken and when it refuses a record: its JSON tells which.

    What it does not say in known words is taken to pass: the answer may have got lost after the record was saved, and
    a record that is refused after all fails when its tries are used up.
    """
    said, status = answer.message, answer.status
    if status == 404 and not answer.is_json:  # CDCS's own are JSON; a proxy answers so while it is away
        return wrong_address(answer)
    if status in {403, 500} and answer.is_json:
        if _MAY_NOT_PUBLISH in said.lower() or (status == 500 and _MAY_NOT_WRITE in said.lower()):
            return ConfigurationError(
                "CDCS does not let the token's user publish to the workspace: check NX_CDCS_WORKSPACE_TITLE and the "
                f"user's rights. It says: {said}"
            )
        if status == 500 and _ABOUT_THE_RECORD.search(said):
            return PermanentError(f"CDCS refused the record ({answer.call}). It says: {said}")
    return refusal(answer)
