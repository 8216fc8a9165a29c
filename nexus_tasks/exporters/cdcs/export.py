"""Exports a record to CDCS: makes it or changes it in place, validates it first, gives it to its owner afterwards."""

import logging
from collections.abc import Callable, Sequence
from functools import cache

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import (
    Check,
    ConfigurationError,
    ExportContext,
    ExportResult,
    PermanentError,
)
from nexus_tasks.exporters.cdcs.api import CdcsApi, IdsRefusedError, NewRecord, NotAnAdministratorError, Record
from nexus_tasks.exporters.cdcs.checks import checks_of
from nexus_tasks.exporters.cdcs.ownership import WantedRecord, content_of, our_record
from nexus_tasks.exporters.cdcs.schema import Schema, schema_of
from nexus_tasks.exporters.http import call_deadline
from nexus_tasks.exporters.record_file import read_utf8_record
from nexus_tasks.exporters.required_settings import value_of
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.steps import Found, Held, Steps, fingerprint

logger = logging.getLogger(__name__)


class CdcsExporter:
    """What talks to CDCS for a destination of that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._memory = ShortMemory()  # ids and schemas by what they belong to
        self._users = ShortMemory()

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
        settings, api = get_settings(), self._api()
        wanted, steps = WantedRecord(context, read_utf8_record(context)), Steps(context.checkpoint, "record")
        held = self._record(api, steps, wanted)
        user = (context.user or "").strip()
        owner = fingerprint(held.identifier, user)
        to_give = settings.NX_CDCS_USER_OWNED_RECORDS and context.checkpoint.written("owner") != owner
        if not held.created and (to_give or held.content != wanted.content):
            there = our_record(api, held, wanted)
            if held.content != wanted.content:
                self._change(api, steps, held, wanted, there)
        result = ExportResult(
            success=True,
            destination_name=self.name,
            record_id=held.identifier,
            record_url=f"{settings.NX_CDCS_URL}/data?id={held.identifier}",
            metadata={
                "done": steps.done,
                "title": wanted.title,
                "template_id": self._memory.get(_template_key()),
                "workspace_id": self._memory.get(_workspace_key()),
            },
        )
        if settings.NX_CDCS_USER_OWNED_RECORDS:
            result.metadata["owner"] = self._give(api, steps, user, held, owner) if to_give else {"user": user}
        return result

    def _api(self) -> CdcsApi:
        return CdcsApi(value_of("NX_CDCS_URL"), value_of("NX_CDCS_TOKEN"), self._memory)

    # --- the record

    def _record(self, api: CdcsApi, steps: Steps, wanted: WantedRecord) -> Held:
        """The record as it stands over there, made if it has to be."""
        try:
            return self._make_record(api, steps, wanted)
        except IdsRefusedError:
            self._memory.forget()  # another template version, or another server: ask once more
        try:
            return self._make_record(api, steps, wanted)
        except IdsRefusedError as error:
            raise ConfigurationError(
                "CDCS refuses the template or the workspace: check NX_CDCS_TEMPLATE_TITLE and "
                f"NX_CDCS_WORKSPACE_TITLE. It says: {error}"
            ) from None

    def _make_record(self, api: CdcsApi, steps: Steps, wanted: WantedRecord) -> Held:
        errors, seconds = None, None
        new_record = cache(lambda: NewRecord(wanted.title, wanted.document, self._template(api), self._workspace(api)))
        if steps.checkpoint.get("record") is None:  # ask before anything counts as begun
            errors = self._errors_in(api, wanted.document)
            seconds = call_deadline(len(new_record().body()))

        def make() -> str:
            if errors is not None:  # only now: an older try may have made the record, and that is found first
                raise _invalid(errors)
            return api.create(new_record())

        return steps.ensure(
            "record",
            make,
            find=lambda: _find_record(api, wanted, steps.checkpoint.written("record")),
            content=wanted.content,
            seconds=seconds,
        )

    def _change(self, api: CdcsApi, steps: Steps, held: Held, wanted: WantedRecord, there: Record) -> None:
        """Put the wanted record in the place of what is `there`, whoever wrote that."""
        holds = content_of(there.title, there.xml)
        if holds == wanted.content:  # the answer to an earlier change was lost
            steps.checkpoint.wrote("record", holds)
            return
        self._refuse_invalid_change(api, there, wanted.document)
        if held.content is not None and holds not in held.content:
            logger.warning(
                "Record %s was changed in CDCS by somebody else: the record of session %s as it is built now takes its "
                "place.",
                held.identifier,
                wanted.context.session_identifier,
            )
        steps.begin_update("record", f"{holds} {wanted.content}")  # either, until the answer is there
        api.change(held.identifier, wanted.title, wanted.document)
        steps.end_update("record", wanted.content)

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

    def _errors_in(self, api: CdcsApi, xml: bytes, template_id: str | None = None) -> str | None:
        """What a template's schema, by default the current one's, says against a document; None if it is valid."""
        schema = self._schema(api, template_id or self._template(api))
        errors = None if schema is None else schema.errors_in(xml)
        if errors is not None and template_id is None:
            self._memory.forget()  # what is remembered may be out of date: nothing is refused because of that
            return self._errors_in(api, xml, self._template(api))
        return errors

    def _refuse_invalid_change(self, api: CdcsApi, there: Record, xml: bytes) -> None:
        errors = self._errors_in(api, xml)
        if errors is None:
            return
        # It may belong to an older version, by which CDCS judges it.
        if there.template is not None and there.template != self._template(api):
            errors = self._errors_in(api, xml, there.template)
        if errors is not None:
            raise _invalid(errors)

    # --- the owner

    def _give(self, api: CdcsApi, steps: Steps, name: str, held: Held, owner: str) -> dict[str, str]:
        """Give the record to the user of that name; a refusal is returned, what time can mend is raised.

        The call can be repeated, so nothing is begun in the checkpoint: it only remembers what was done, as `owner`. A
        failed one leaves nothing behind that a later export would have to wait for.
        """
        checkpoint = steps.checkpoint
        try:
            user_id = self._user(api, name)
            api.change_owner(held.identifier, user_id)
        except (PermanentError, NotAnAdministratorError) as error:
            self._users.forget()
            logger.warning("Record %s stays with the token's user in CDCS: %s", held.identifier, error)
            return {"problem": str(error)}
        earlier = checkpoint.get("owner")
        if earlier is not None:  # of a record that was made again, or of a session whose user was corrected
            checkpoint.forget("owner", earlier)
        steps.adopt("owner", Found(user_id, owner))
        return {"user": name}

    def _user(self, api: CdcsApi, name: str) -> str:
        """The id of the CDCS user of that name, made if there is none."""
        if not name:
            raise PermanentError("The session names no user.")
        key = (value_of("NX_CDCS_URL"), name)
        return self._users.get(key) or self._users.put(key, api.user_named(name) or api.create_user(name))


def _find_record(api: CdcsApi, wanted: WantedRecord, known: str | None) -> Found | None:
    """The oldest record of this session among all that the token's user can read."""
    titled = [record for title in wanted.titles(known) for record in api.with_title(title)]
    ours = [record for record in titled if wanted.is_this(record, known)]
    if not ours:
        return None
    oldest = min(ours, key=lambda record: record.number)
    return Found(str(oldest.number), content_of(oldest.title, oldest.xml))


def _invalid(errors: str) -> PermanentError:
    return PermanentError(
        f"The record does not fit the schema of CDCS's template {get_settings().NX_CDCS_TEMPLATE_TITLE!r}, it was not "
        f"sent: {errors}. Build the session again, or have the template changed, and retry."
    )


def _template_key() -> tuple[str, str, str]:
    return "template", value_of("NX_CDCS_URL"), get_settings().NX_CDCS_TEMPLATE_TITLE


def _workspace_key() -> tuple[str, str, str]:
    return "workspace", value_of("NX_CDCS_URL"), get_settings().NX_CDCS_WORKSPACE_TITLE
