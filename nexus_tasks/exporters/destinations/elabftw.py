"""Makes an experiment in eLabFTW for a record: summary, tags, extra fields, and the XML attached; called by workers.

Written for REST v2 from 5.2 on, where one POST carries everything. Before 5.2 that POST leaves out body and metadata,
so they follow in a PATCH; which version it is, is asked once in ten minutes.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportContext,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.html_summary import cdcs_link, render_summary
from nexus_tasks.exporters.http import ServiceSession, open_session
from nexus_tasks.exporters.http_failures import Answer, Service, refusal, wrong_address
from nexus_tasks.exporters.record_file import read_record
from nexus_tasks.exporters.required_settings import all_set, check_set, value_of
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.title import attachment_name

LONGEST_BODY = 4_000_000  # bytes; eLabFTW refuses more than 4,120,000
LONGEST_TITLE = 255  # characters
WHOLE_POST_SINCE = 50200  # elabftw_version_int from which POST takes body and metadata

_SERVICE = Service("eLabFTW", "NX_ELABFTW_URL", "NX_ELABFTW_API_KEY and the rights of its user")
_NEEDED = ("NX_ELABFTW_URL", "NX_ELABFTW_API_KEY")


class ELabFTWDestination:
    """eLabFTW, as `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "elabftw"
    priority = 85
    depends_on = ("cdcs",)

    def __init__(self) -> None:
        self._versions = ShortMemory()

    @property
    def enabled(self) -> bool:
        """Whether its address and key are set."""
        return all_set(*_NEEDED)

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        valid, problem = check_set("eLabFTW", *_NEEDED)
        if valid and re.search(r"/api(/v\d)?$", value_of("NX_ELABFTW_URL")):
            return False, "NX_ELABFTW_URL must be the address of the site, without /api/v2 at its end."
        return valid, problem

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        url, key = value_of("NX_ELABFTW_URL"), value_of("NX_ELABFTW_API_KEY")
        session = open_session(_SERVICE, url, headers={"Authorization": key}, secrets=(key,))
        xml, experiment = read_record(context), _experiment(context)
        takes_all = self._version(session, url) >= WHOLE_POST_SINCE
        experiment_id = context.checkpoint.create("experiment", lambda: _create_experiment(session, experiment))
        if not takes_all:
            _fill_in(session, experiment_id, experiment)
        upload_id = context.checkpoint.create(
            "upload", lambda: _attach(session, experiment_id, attachment_name(context), xml)
        )
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=experiment_id,
            record_url=f"{url}/experiments.php?mode=view&id={experiment_id}",
            metadata={"upload_id": upload_id, "cdcs_url": cdcs_link(context)},
        )

    def _version(self, session: ServiceSession, url: str) -> int:
        version = self._versions.get(url)
        if version is None:
            answer = session.call("GET", "api/v2/info")
            if answer.status == 404:
                raise wrong_address(answer)
            if answer.status != 200:
                raise refusal(answer)
            info = answer.json()
            found = info.get("elabftw_version_int") if isinstance(info, dict) else None
            version = self._versions.put(url, str(WHOLE_POST_SINCE if found is None else found))
        return int(version) if version.isdigit() else WHOLE_POST_SINCE


def _experiment(context: ExportContext) -> dict[str, Any]:
    settings = get_settings()
    title = " ".join(f"NexusLIMS Experiment - {context.session_identifier}".split())
    experiment: dict[str, Any] = {
        "title": title[:LONGEST_TITLE],
        "body": render_summary(context, max_bytes=LONGEST_BODY, files_root=settings.NX_INSTRUMENT_DATA_PATH),
        "tags": _tags("NexusLIMS", context.instrument_pid, context.user),
        "metadata": {"extra_fields": _extra_fields(context)},
    }
    if settings.NX_ELABFTW_EXPERIMENT_CATEGORY is not None:
        experiment["category"] = settings.NX_ELABFTW_EXPERIMENT_CATEGORY
    if settings.NX_ELABFTW_EXPERIMENT_STATUS is not None:
        experiment["status"] = settings.NX_ELABFTW_EXPERIMENT_STATUS
    return experiment


def _tags(*names: str | None) -> list[str]:
    """Tags that eLabFTW takes: a refused one would leave half an experiment behind, and `|` parts them on reading."""
    tags = [" ".join((name or "").replace("|", " ").split())[:LONGEST_TITLE] for name in names]
    return list(dict.fromkeys(tag for tag in tags if tag))


def _extra_fields(context: ExportContext) -> dict[str, dict[str, Any]]:
    values = [
        ("Session ID", "text", context.session_identifier, ""),
        ("Instrument", "text", context.instrument_pid, ""),
        ("User", "text", context.user, ""),
        # datetime-local knows no zone: the description says it
        ("Start", "datetime-local", f"{context.dt_from:%Y-%m-%dT%H:%M:%S}", context.dt_from.isoformat()),
        ("End", "datetime-local", f"{context.dt_to:%Y-%m-%dT%H:%M:%S}", context.dt_to.isoformat()),
        ("CDCS URL", "url", cdcs_link(context), ""),
    ]
    fields: dict[str, dict[str, Any]] = {}
    for name, kind, value, description in values:
        if value:
            fields[name] = {"type": kind, "value": value, "position": len(fields) + 1}
            if description:
                fields[name]["description"] = description
    return fields


def _create_experiment(session: ServiceSession, experiment: dict[str, Any]) -> str:
    answer = session.call("POST", "api/v2/experiments", json=experiment)
    if answer.status == 201:
        return _created_id(answer)
    if answer.status == 400 and "tag" in answer.message.lower():
        raise PermanentError(
            f"eLabFTW refused a tag of the experiment, which may stand there without it. It says: {answer.message}"
        )
    raise refusal(answer)


def _fill_in(session: ServiceSession, experiment_id: str, experiment: dict[str, Any]) -> None:
    parts = {"body": experiment["body"], "metadata": json.dumps(experiment["metadata"])}
    answer = session.call("PATCH", f"api/v2/experiments/{experiment_id}", json=parts)
    if answer.status != 200:
        raise _refusal_of_experiment(session, answer, experiment_id)


def _attach(session: ServiceSession, experiment_id: str, name: str, xml: bytes) -> str:
    answer = session.call(
        "POST",
        f"api/v2/experiments/{experiment_id}/uploads",
        files={"file": (name, xml, "application/xml")},
        data={"comment": "NexusLIMS record (XML)"},
    )
    if answer.status != 201:
        raise _refusal_of_experiment(session, answer, experiment_id)
    return _created_id(answer)


def _created_id(answer: Answer) -> str:
    """The last segment of `Location`, whose host may be another than the one that was called."""
    identifier = urlsplit(answer.headers.get("location", "")).path.rstrip("/").rpartition("/")[2]
    if not identifier.isdigit():
        raise TransientError(f"eLabFTW answered without the id of what it made ({answer.call}).")
    return identifier


def _refusal_of_experiment(session: ServiceSession, answer: Answer, experiment_id: str) -> ExportError:
    """What a refusal about an experiment that stands over there means.

    eLabFTW answers 401 both for a bad key and for an experiment that is locked or belongs to others: a call that has
    nothing to do with the experiment tells which.
    """
    said = f" It says: {answer.message}" if answer.message else ""
    meaning = refusal(answer)
    if isinstance(meaning, ConfigurationError) and answer.status in {401, 403}:
        other = session.call("GET", "api/v2/info")
        if other.status == 200:
            return PermanentError(
                f"eLabFTW does not let us change experiment {experiment_id} ({answer.status}): is it locked, or "
                f"somebody else's?{said}"
            )
    if answer.status in {404, 422}:
        return PermanentError(
            f"Experiment {experiment_id} is not there any more in eLabFTW ({answer.status}): it was deleted or "
            f"archived.{said}"
        )
    return meaning
