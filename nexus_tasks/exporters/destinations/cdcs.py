"""Sends a record to a CDCS repository: the primary destination, whose links the notebooks show; called by workers.

One POST makes the record and puts it into its workspace; a later content is put in its place by PATCH. Which template
and workspace those are is asked by title, and remembered for ten minutes together with the template's schema: a record
that is not valid is not sent. The XML goes as it is in the file. With NX_CDCS_USER_OWNED_RECORDS a record is given to
its session's user once it stands; whatever goes wrong with that, the record is there, and the export a success.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from lxml import etree

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import (
    Check,
    ConfigurationError,
    ExportContext,
    ExportError,
    ExportResult,
    PermanentError,
)
from nexus_tasks.exporters.cdcs.api import CdcsApi, IdsRefusedError, deadline_for
from nexus_tasks.exporters.cdcs.checks import checks_of
from nexus_tasks.exporters.cdcs.schema import Schema, schema_of
from nexus_tasks.exporters.gone import advice_to_recreate
from nexus_tasks.exporters.record_file import read_record_text
from nexus_tasks.exporters.required_settings import all_set, check_set, value_of
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.steps import Found, Held, Steps, fingerprint
from nexus_tasks.exporters.title import record_title

_NEEDED = ("NX_CDCS_URL", "NX_CDCS_TOKEN")
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)

logger = logging.getLogger(__name__)


class CDCSDestination:
    """CDCS, as `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "cdcs"
    priority = 100
    depends_on: tuple[str, ...] = ()
    updates = True

    def __init__(self) -> None:
        self._memory = ShortMemory()  # ids and schemas by what they belong to
        self._users = ShortMemory()

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

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return checks_of(self._api)

    def record_schema(self) -> bytes | None:
        """See `ExportDestination`: of the template's current version, which is asked for anew."""
        api = self._api()
        xsd = api.template(api.current_template(_template_key()[-1])).xsd
        return None if xsd is None else xsd.encode("utf-8")

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        with advice_to_recreate(context, self.name):
            return self._export(context)

    def _api(self) -> CdcsApi:
        return CdcsApi(value_of("NX_CDCS_URL"), value_of("NX_CDCS_TOKEN"), self._memory)

    def _export(self, context: ExportContext) -> ExportResult:
        settings, api = get_settings(), self._api()
        title, xml = record_title(context), read_record_text(context)
        steps, content = Steps(context.checkpoint, "record"), fingerprint(title, xml)
        held = self._record(api, steps, context, title, xml)
        if held.content != content:
            self._refuse_invalid_change(api, held.identifier, xml)
            steps.begin_update("record")
            api.change(held.identifier, title, xml)
            steps.end_update("record", content)
        result = ExportResult(
            success=True,
            destination_name=self.name,
            record_id=held.identifier,
            record_url=f"{settings.NX_CDCS_URL}/data?id={held.identifier}",
            metadata={
                "done": steps.done,
                "title": title,
                "template_id": self._memory.get(_template_key()),
                "workspace_id": self._memory.get(_workspace_key()),
            },
        )
        if settings.NX_CDCS_USER_OWNED_RECORDS:
            result.metadata["owner"] = self._owner(api, steps, context, held.identifier)
        return result

    # --- the record

    def _record(self, api: CdcsApi, steps: Steps, context: ExportContext, title: str, xml: str) -> Held:
        """The record as it stands over there, made if it has to be."""
        try:
            return self._make_record(api, steps, context, title, xml)
        except IdsRefusedError:
            self._memory.forget()  # another template version, or another server: ask once more
        try:
            return self._make_record(api, steps, context, title, xml)
        except IdsRefusedError as error:
            raise ConfigurationError(
                "CDCS refuses the template or the workspace: check NX_CDCS_TEMPLATE_TITLE and "
                f"NX_CDCS_WORKSPACE_TITLE. It says: {error}"
            ) from None

    def _make_record(self, api: CdcsApi, steps: Steps, context: ExportContext, title: str, xml: str) -> Held:
        errors, template, workspace = None, "", None
        if context.checkpoint.get("record") is None:  # ask before anything counts as begun
            errors = self._errors_in(api, xml)
            template, workspace = self._template(api), self._workspace(api)

        def make() -> str:
            if errors is not None:  # only now: an older try may have made the record, and that is found first
                raise _invalid(errors)
            return api.create(title, xml, template, workspace)

        return steps.ensure(
            "record",
            make,
            find=partial(_find_record, api, title, xml, context.session_identifier),
            content=fingerprint(title, xml),
            seconds=deadline_for(title, xml),
        )

    # --- what CDCS holds

    def _template(self, api: CdcsApi) -> str:
        key = _template_key()
        return self._remembered(key, lambda: api.current_template(key[-1]))

    def _workspace(self, api: CdcsApi) -> str | None:
        if not get_settings().NX_CDCS_ASSIGN_TO_PUBLIC_WORKSPACE:
            return None
        key = _workspace_key()
        return self._remembered(key, lambda: str(api.workspace(key[-1])["id"]))

    def _schema(self, api: CdcsApi, template_id: str) -> Schema | None:
        """The schema of a template version; None where there is none to be had: then CDCS alone validates."""

        def ask() -> str:
            try:
                return api.template(template_id).xsd or ""
            except (ConfigurationError, PermanentError) as error:
                logger.warning("Records are sent to CDCS unvalidated, it does not show the schema: %s", error)
                return ""

        key = ("schema", value_of("NX_CDCS_URL"), template_id)
        xsd = self._memory.get(key)
        if xsd is None:
            xsd = self._memory.put(key, ask())
        return schema_of(xsd) if xsd else None

    def _remembered(self, key: tuple[str, str, str], look_up: Callable[[], str]) -> str:
        return self._memory.get(key) or self._memory.put(key, look_up())

    # --- validation

    def _errors_in(self, api: CdcsApi, xml: str, template_id: str | None = None) -> str | None:
        """What a template's schema, by default the current one's, says against a document; None if it is valid."""
        schema = self._schema(api, template_id or self._template(api))
        errors = None if schema is None else schema.errors_in(xml)
        if errors is not None and template_id is None:
            self._memory.forget()  # what is remembered may be out of date: nothing is refused because of that
            return self._errors_in(api, xml, self._template(api))
        return errors

    def _refuse_invalid_change(self, api: CdcsApi, record_id: str, xml: str) -> None:
        errors = self._errors_in(api, xml)
        if errors is None:
            return
        own_template = api.template_of(record_id)  # it may belong to an older version, by which CDCS judges it
        if own_template is not None and own_template != self._template(api):
            errors = self._errors_in(api, xml, own_template)
        if errors is not None:
            raise _invalid(errors)

    # --- the owner

    def _owner(self, api: CdcsApi, steps: Steps, context: ExportContext, record_id: str) -> dict[str, str]:
        """Give the record to the session's user, once; what is in the way of it is returned, not raised.

        The call can be repeated, so nothing is begun in the checkpoint: it only remembers what was done. A failed one
        leaves nothing behind that a later export would have to wait for.
        """
        name, checkpoint = (context.user or "").strip(), context.checkpoint
        given = fingerprint(record_id, name)
        if checkpoint.written("owner") == given:
            return {"user": name}
        try:
            if not name:
                raise PermanentError("The session names no user.")
            user_id = self._user(api, name)
            api.change_owner(record_id, user_id)
        except ExportError as error:
            self._users.forget()
            logger.warning("Record %s stays with the token's user in CDCS: %s", record_id, error)
            return {"problem": str(error)}
        earlier = checkpoint.get("owner")
        if earlier is not None:  # of a record that was made again, or of a session whose user was corrected
            checkpoint.forget("owner", earlier)
        steps.adopt("owner", Found(user_id, given))
        return {"user": name}

    def _user(self, api: CdcsApi, name: str) -> str:
        """The id of the CDCS user of that name, made if there is none."""
        key = (value_of("NX_CDCS_URL"), name)
        return self._users.get(key) or self._users.put(key, api.user_named(name) or api.create_user(name))


def _find_record(api: CdcsApi, title: str, xml: str, session_identifier: str) -> Found | None:
    """The oldest record of this session among all that the token's user can read."""
    for record in api.with_title(title):
        # The same title may stand over records of other sessions: identifiers are shortened in it.
        if record.xml == xml or session_identifier.strip() in _identifiers_in(record.xml):
            return Found(str(record.number), fingerprint(title, record.xml))
    return None


def _identifiers_in(xml: str) -> set[str]:
    """What may be a document's session identifier: its element `id` below the root, without one any whole text."""
    try:
        root = etree.fromstring(xml.encode("utf-8"), _PARSER)
    except (etree.XMLSyntaxError, ValueError):
        return set()
    named = [element.text or "" for element in root.iterchildren("{*}id")]
    texts = named or [str(text) for text in root.itertext()]
    return {text.strip() for text in texts} - {""}


def _invalid(errors: str) -> PermanentError:
    return PermanentError(
        f"The record does not fit the schema of CDCS's template {get_settings().NX_CDCS_TEMPLATE_TITLE!r}, it was not "
        f"sent: {errors}. Build the session again, or have the template changed, and retry."
    )


def _template_key() -> tuple[str, str, str]:
    return "template", value_of("NX_CDCS_URL"), get_settings().NX_CDCS_TEMPLATE_TITLE


def _workspace_key() -> tuple[str, str, str]:
    return "workspace", value_of("NX_CDCS_URL"), get_settings().NX_CDCS_WORKSPACE_TITLE
