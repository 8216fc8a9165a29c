"""What people say about a session: title, motivation, project, samples, who was there; `record_xml` writes it.

The command line and the import of files make `SessionDetails` with `parse`, the database keeps `stored`. Whatever these
accept stands in a valid record.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

LONGEST_LINE = 500  # characters of a name or a title
LONGEST_TEXT = 20_000  # characters of a motivation, a description or notes

# What XML 1.0 has no character for, and NUL, which PostgreSQL does not take either
_NOT_WRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class SessionDetailsError(Exception):
    """A detail cannot be taken; the message completes "`field` …"."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field = field
        self.reason = reason


def writable_line(text: str) -> str:
    """The text on one line, as XML's tokens are; raises `ValueError`, also when there is none."""
    line = " ".join(_writable_text(text).split())
    if not line:
        msg = "must not be empty"
        raise ValueError(msg)
    return line


def _writable_text(text: str) -> str:
    if _NOT_WRITABLE.search(text):
        msg = "holds a control character, which a record cannot hold"
        raise ValueError(msg)
    return text.replace("\r\n", "\n").strip()


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _empty_if_none(value: Any) -> Any:
    return () if value is None else value


Line = Annotated[str, Field(max_length=LONGEST_LINE), AfterValidator(writable_line)]
OptionalLine = Annotated[Line | None, BeforeValidator(_none_if_blank)]
OptionalText = Annotated[
    Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_writable_text)] | None,
    BeforeValidator(_none_if_blank),
]
Names = Annotated[tuple[Line, ...], BeforeValidator(_empty_if_none)]


class _Details(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Project(_Details):
    """The project that a session belongs to."""

    name: OptionalLine = None
    division: OptionalLine = None
    group: OptionalLine = None
    id: OptionalLine = None


class Sample(_Details):
    """Something that was looked at."""

    name: OptionalLine = None
    description: OptionalText = None  # a paragraph per line
    id: OptionalLine = None

    @model_validator(mode="after")
    def _can_be_told(self) -> Self:
        if self.name is None and self.id is None:
            msg = "needs a name or an id"
            raise ValueError(msg)
        return self


def _none_if_nothing_is_said(project: Project | None) -> Project | None:
    return None if project == Project() else project


class SessionDetails(_Details):
    """All that is said about one session."""

    title: OptionalLine = None
    motivation: OptionalText = None
    experimenters: Names = ()
    collaborators: Names = ()
    project: Annotated[Project | None, AfterValidator(_none_if_nothing_is_said)] = None
    samples: Annotated[tuple[Sample, ...], BeforeValidator(_empty_if_none)] = ()
    notes: OptionalText = None  # a paragraph per line

    @model_validator(mode="after")
    def _samples_are_told_apart(self) -> Self:
        """A schema lets doubled ids pass, but nothing could refer to one of them."""
        ids = [sample.id for sample in self.samples if sample.id is not None]
        doubled = next((id_ for id_ in ids if ids.count(id_) > 1), None)
        if doubled is not None:
            raise ValueError(f"names two samples with the id {doubled}")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The details that `stored` wrote, or somebody wrote by hand. Raises `SessionDetailsError`."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise SessionDetailsError(_field(first["loc"]), _reason(first)) from None

    @classmethod
    def changed(cls, stored: Mapping[str, Any], changes: Mapping[str, Any]) -> Self:
        """What is stored, with the fields of `changes` in place of its own; an empty value takes one away.

        The parts of a project are changed one by one, samples and names all together. Raises `SessionDetailsError`.
        """
        values = {**stored, **changes}
        project = changes.get("project")
        if isinstance(project, Mapping):
            values["project"] = {**stored.get("project", {}), **project}
        return cls.parse(values)

    def stored(self) -> dict[str, Any]:
        """Only what is said, ready to be kept as JSON."""
        return self.model_dump(mode="json", exclude_defaults=True)


NOTHING_SAID = SessionDetails()


def _field(location: tuple[int | str, ...]) -> str:
    """As in `samples.2.name`, counted from 1."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in location) or "samples"


def _reason(error: Mapping[str, Any]) -> str:
    reasons = {
        "extra_forbidden": "is not known here",
        "string_type": "must be a text",
        "tuple_type": "must be a list",
        "model_type": "must be an object with its parts by name",
        "string_too_long": f"is longer than {error.get('ctx', {}).get('max_length')} characters",
    }
    return reasons.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
