"""What eLabFTW shall hold of a record: title, body, tags and extra fields; pure, used by `export`."""

import json
import unicodedata
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import ExportContext, PermanentError
from nexus_tasks.exporters.elabftw.api import SESSION_FIELD, session_of
from nexus_tasks.exporters.html_summary import Summary, cdcs_link, moment, render_summary
from nexus_tasks.exporters.http_body import Body, json_body
from nexus_tasks.exporters.steps import fingerprint
from nexus_tasks.exporters.written_text import Marks, Visible

LONGEST_BODY = 4_000_000  # bytes; eLabFTW refuses more than 4,120,000
LONGEST_TITLE = 255  # characters; of a tag, too
CDCS_FIELD = "CDCS URL"


@dataclass(frozen=True)
class WantedExperiment:
    """What eLabFTW shall hold of a record, but for the file."""

    context: ExportContext

    def check(self) -> None:
        """Raise `PermanentError` for what eLabFTW could not take, before anything is made there."""
        for name, text in (
            ("session identifier", self.context.session_identifier),
            ("instrument", self.context.instrument_pid),
            ("name of the user", self.context.user or ""),
        ):
            if any(unicodedata.category(each) == "Cs" for each in text):
                raise PermanentError(
                    f"The {name} is not valid text (it holds half of a character): {text[:60]!a}. "
                    "Mend it in the session log, and retry."
                )
        size = len(self.body.encode("utf-8"))
        if size > LONGEST_BODY:
            raise PermanentError(
                f"The summary of this session is too long for eLabFTW ({size} bytes, at most {LONGEST_BODY}): its "
                "session identifier, instrument or user is. Shorten it in the session log, and retry."
            )

    def is_this(self, there: dict[str, Any], *, named: bool) -> bool:
        """Whether the experiment that stands `there` is this session's; `named`: we gave it the identifier's field."""
        carried = session_of(there)
        if carried:
            return carried == self.context.session_identifier
        return not named or (self.has_telling_title and there.get("title") == self.experiment["title"])

    @property
    def has_telling_title(self) -> bool:
        """Whether the title holds the whole identifier: a long one is cut."""
        return bool(self.experiment["title"].endswith(self.context.session_identifier))

    @cached_property
    def body(self) -> str:
        """The summary, HTML."""
        return self._summary.html

    @cached_property
    def visible(self) -> Visible:
        """What people see of the summary."""
        return self._summary.visible

    @cached_property
    def visible_without_link(self) -> Visible:
        """As the summary was while CDCS did not hold the record."""
        return _summary(replace(self.context, previous_results={})).visible

    @cached_property
    def _summary(self) -> Summary:
        return _summary(self.context)

    @cached_property
    def fields(self) -> dict[str, dict[str, Any]]:
        """The extra fields by name, as eLabFTW's metadata hold them."""
        return _extra_fields(self.context)

    @cached_property
    def marks(self) -> Marks:
        """Fingerprints of fields, body and visible text: what the checkpoint remembers."""
        fields = fingerprint(json.dumps(self.fields, sort_keys=True))
        return {"fields": fields, "body": fingerprint(self.body), "text": self.visible.mark}

    @cached_property
    def posted(self) -> Body:
        """The experiment as it is sent to be made."""
        return json_body(self.experiment)

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """What a POST sends."""
        settings, context = get_settings(), self.context
        experiment: dict[str, Any] = {
            "title": _one_line(f"NexusLIMS Experiment - {context.session_identifier}"),
            "body": self.body,
            "tags": _tags("NexusLIMS", context.instrument_pid, context.user),
            "metadata": {"extra_fields": self.fields},
        }
        if settings.NX_ELABFTW_EXPERIMENT_CATEGORY is not None:
            experiment["category"] = settings.NX_ELABFTW_EXPERIMENT_CATEGORY
        if settings.NX_ELABFTW_EXPERIMENT_STATUS is not None:
            experiment["status"] = settings.NX_ELABFTW_EXPERIMENT_STATUS
        return experiment


def _summary(context: ExportContext) -> Summary:
    return render_summary(context, max_bytes=LONGEST_BODY, files_root=get_settings().NX_INSTRUMENT_DATA_PATH)


def _tags(*names: str | None) -> list[str]:
    """Tags that eLabFTW takes: a refused one would leave half an experiment behind, and `|` parts them on reading."""
    tags = [_one_line((name or "").replace("|", " ").replace("\\", "")) for name in names]
    return list(dict.fromkeys(tag for tag in tags if tag))


def _one_line(text: str) -> str:
    """`text` as a title or tag: on one line, without control characters, and not too long."""
    shown = "".join(each for each in " ".join(text.split()) if unicodedata.category(each) != "Cc")
    return shown[:LONGEST_TITLE].strip()


def _extra_fields(context: ExportContext) -> dict[str, dict[str, Any]]:
    values = [
        (SESSION_FIELD, "text", context.session_identifier, ""),
        ("Instrument", "text", context.instrument_pid, ""),
        ("User", "text", context.user, ""),
        # datetime-local knows no zone: the description says it
        ("Start", "datetime-local", f"{context.dt_from:%Y-%m-%dT%H:%M:%S}", moment(context.dt_from)),
        ("End", "datetime-local", f"{context.dt_to:%Y-%m-%dT%H:%M:%S}", moment(context.dt_to)),
        (CDCS_FIELD, "url", cdcs_link(context), ""),
    ]
    fields: dict[str, dict[str, Any]] = {}
    for name, kind, value, description in values:
        if value:
            fields[name] = {"type": kind, "value": value, "position": len(fields) + 1}
            if description:
                fields[name]["description"] = description
    return fields
