"""Exports a record to eLabFTW: the experiment, made or brought up to date, and the XML attached to it."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nexus_tasks.exporters.base import (
    Check,
    ConfigurationError,
    ExportContext,
    ExportError,
    ExportResult,
    TransientError,
)
from nexus_tasks.exporters.elabftw.api import (
    ELabFTWApi,
    ExperimentRefusedError,
    extra_fields_of,
    metadata_of,
    session_of,
)
from nexus_tasks.exporters.elabftw.checks import checks_of
from nexus_tasks.exporters.elabftw.experiment import CDCS_FIELD, WantedExperiment
from nexus_tasks.exporters.elabftw.ownership import StandingExperiment
from nexus_tasks.exporters.html_summary import cdcs_link, render_note
from nexus_tasks.exporters.http import call_deadline
from nexus_tasks.exporters.record_file import read_record
from nexus_tasks.exporters.required_settings import value_of
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.steps import UNKNOWN, Found, Held, Steps, fingerprint
from nexus_tasks.exporters.title import attachment_name
from nexus_tasks.exporters.written_text import is_ours, packed, unpacked, visible, while_changing

LONGEST_BODY_WITH_NOTE = 4_100_000  # bytes; people's own text may be as long as eLabFTW takes
WHOLE_POST_SINCE = 50200  # elabftw_version_int from which POST takes body and metadata
UPLOAD_COMMENT = "NexusLIMS record (XML)"

_FORM_BYTES = 2_000  # what a form adds to the file in it, at most


class ELabFTWExporter:
    """What talks to eLabFTW for a destination of that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._versions = ShortMemory()

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return checks_of(ELabFTWApi(value_of("NX_ELABFTW_URL"), value_of("NX_ELABFTW_API_KEY")))

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        url = value_of("NX_ELABFTW_URL")
        api = ELabFTWApi(url, value_of("NX_ELABFTW_API_KEY"))
        xml, wanted = read_record(context), WantedExperiment(context)
        wanted.check()
        steps = Steps(context.checkpoint, "experiment")
        held = self._experiment(api, steps, wanted, url)
        standing = StandingExperiment(api, held, wanted)
        if not held.created:
            _bring_up_to_date(api, steps, standing, wanted, fingerprint(xml))
        upload_id = _attach(api, steps, standing, attachment_name(context), xml)
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=held.identifier,
            record_url=f"{url}/experiments.php?mode=view&id={held.identifier}",
            metadata={"done": steps.done, "upload_id": upload_id, "cdcs_url": cdcs_link(context)},
        )

    def _experiment(self, api: ELabFTWApi, steps: Steps, wanted: WantedExperiment, url: str) -> Held:
        """The experiment as it stands over there, made if it has to be."""
        known = steps.checkpoint.get("experiment")
        takes_all = known is not None or self._version(api, url) >= WHOLE_POST_SINCE
        find = partial(_find_experiment, api, wanted, by_title=not takes_all)
        held = steps.ensure(
            "experiment",
            partial(_create, api, wanted, find),
            find=find,
            content=packed(wanted.marks) if takes_all else None,
            seconds=call_deadline(len(wanted.posted)),
        )
        if held.created and not takes_all:
            api.change(held.identifier, {"body": wanted.body, "metadata": json.dumps({"extra_fields": wanted.fields})})
            steps.end_update("experiment", packed(wanted.marks))
        return held

    def _version(self, api: ELabFTWApi, url: str) -> int:
        version = self._versions.get(url)
        if version is None:
            version = self._versions.put(url, str(api.version() or WHOLE_POST_SINCE))
        return int(version)


def _create(api: ELabFTWApi, wanted: WantedExperiment, find: Callable[[], Found | None]) -> str | Found:
    """Make the experiment, or return what a refusal has left behind."""
    try:
        return api.create(wanted.experiment, wanted.posted)
    except ExperimentRefusedError:
        try:
            left_behind = find()
        except ExportError as error:  # of whatever kind: it does not say that nothing was made
            raise TransientError(str(error), getattr(error, "retry_after", None)) from error
        if left_behind is not None:
            return left_behind
        if api.forces_templates():
            raise ConfigurationError(
                "The team of eLabFTW's key makes experiments from templates only (its setting force_exp_tpl): have an "
                "administrator of the team switch that off, or set NX_ELABFTW_API_KEY to a key of another team."
            ) from None
        raise


def _find_experiment(api: ELabFTWApi, wanted: WantedExperiment, *, by_title: bool) -> Found | None:
    """The oldest live experiment that carries the session's identifier in its field.

    `by_title`: before 5.2 an experiment has no fields until its PATCH, so one without any is known by its title, if
    that holds the whole identifier.
    """
    session, title = wanted.context.session_identifier, wanted.experiment["title"]
    candidates = api.with_session(session)
    if not candidates and by_title and wanted.has_telling_title:
        candidates = [each for each in api.with_title(title) if session_of(each) is None]
    if not candidates:
        return None
    identifier = str(candidates[0]["id"])
    there = api.read(identifier)
    holds_fields = all(
        extra_fields_of(there).get(name, {}).get("value") == field["value"] for name, field in wanted.fields.items()
    )
    current = holds_fields and visible(there.get("body") or "") == wanted.visible
    return Found(identifier, packed(wanted.marks) if current else None)


def _bring_up_to_date(
    api: ELabFTWApi, steps: Steps, standing: StandingExperiment, wanted: WantedExperiment, record_sha256: str
) -> None:
    held = standing.held
    known = unpacked(held.content)
    changed = {name for name in ("fields", "body") if known.get(name) != wanted.marks[name]}
    if not changed:
        return
    there = standing.read()
    marks, values = {**known, "fields": wanted.marks["fields"], "body": wanted.marks["body"]}, {}
    changing = {name: mark for name, mark in known.items() if name == "text"}
    if "fields" in changed:
        values["metadata"] = json.dumps(_merged(there, wanted.fields))
    if "body" in changed:
        body = there.get("body") or ""
        shown = visible(body)
        if is_ours(shown, known, wanted.visible, wanted.visible_without_link):
            values["body"], marks["text"] = wanted.body, wanted.visible.mark
            changing = while_changing(known, shown, wanted.visible)
        else:
            values |= _with_note(body, render_note(wanted.context, record_sha256))
    if not values:  # people's text has its note already
        steps.checkpoint.wrote("experiment", packed(marks))
        return
    steps.begin_update("experiment", packed(changing) or UNKNOWN)
    api.change(held.identifier, values)
    steps.end_update("experiment", packed(marks))


def _with_note(body: str, note: str) -> dict[str, str]:
    """The body with a note below people's text, unless it has this note, or has no room."""
    longer = body + note
    if visible(note).text in visible(body).text or len(longer.encode("utf-8")) > LONGEST_BODY_WITH_NOTE:
        return {}
    return {"body": longer}


def _merged(there: dict[str, Any], fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The metadata with our fields as they shall be, and everything that people have added."""
    merged = extra_fields_of(there)
    if CDCS_FIELD not in fields:
        merged.pop(CDCS_FIELD, None)
    for name, field in fields.items():
        merged[name] = {**merged.get(name, {}), **field}
    return {**metadata_of(there), "extra_fields": merged}


def _attach(api: ELabFTWApi, steps: Steps, standing: StandingExperiment, name: str, xml: bytes) -> str:
    """The id of the upload that holds the record now.

    Replacing one makes another: the steps are a chain, each named after the upload that it replaces.
    """
    experiment_id, sha256 = standing.held.identifier, fingerprint(xml)

    def ensure(step: str, older: str | None) -> Held:
        seconds = call_deadline(len(xml) + _FORM_BYTES) + (0 if older is None else call_deadline())
        call: Callable[[], str] = partial(api.attach, experiment_id, name, xml, UPLOAD_COMMENT, instead_of=older)
        find = partial(_find_upload, api, experiment_id, name, sha256, older)
        return steps.ensure(step, call, find=find, content=sha256, seconds=seconds)

    step = "upload"
    if steps.checkpoint.get(step) is None:
        standing.check()
    held = ensure(step, None)
    while not held.created:
        following = f"upload instead of {held.identifier}"
        if steps.checkpoint.get(following) is None:
            if held.content == sha256:
                break
            standing.check()
            steps.begin_update(step)
        step, held = following, ensure(following, held.identifier)
    return held.identifier


def _find_upload(api: ELabFTWApi, experiment_id: str, name: str, sha256: str, older: str | None) -> Found | None:
    """The oldest upload of the record that is newer than `older`: with this content, else with another one of ours.

    Ours has our comment. One that came instead of `older` has none, whatever was sent; then `older` is not there.
    """
    there = api.uploads(experiment_id)
    if older is not None and any(upload.identifier == older for upload in there):
        return None
    newer = [
        upload for upload in there if upload.name == name and (older is None or int(upload.identifier) > int(older))
    ]
    comments = {UPLOAD_COMMENT} if older is None else {UPLOAD_COMMENT, ""}
    same = [upload for upload in newer if upload.sha256 == sha256]
    for upload in same or [upload for upload in newer if upload.comment in comments]:
        return Found(upload.identifier, upload.sha256)
    return None
