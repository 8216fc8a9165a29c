"""The plugin contract: everything that the author of a destination needs to read.

A destination is a class with `name`, `priority`, `enabled`, `validate_config()` and `export(context)`, in one file
under `nexus_tasks/exporters/destinations/`, in a folder that `NX_PLUGINS_PATH` names, or behind the entry-point group
`nexus_tasks.destinations`. It knows nothing of Celery or of the database: `export` gets an `ExportContext`, talks to
its service, and returns an `ExportResult` or raises one of the exceptions below. The interface is NexusLIMS's
(`nexusLIMS.exporters.base`); what is optional here is marked so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


class ExportError(Exception):
    """Why a record could not be exported; raise one of the three subclasses, in words that an operator can act on.

    The message must carry no secret: it is stored in `upload_log`, logged and shown.
    """


class TransientError(ExportError):
    """Time can mend it: the service is away, overloaded, or gave an answer that cannot be trusted.

    `retry_after` is the least number of seconds to wait before the next try, where the service named one.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


class NothingDoneError(TransientError):
    """Time can mend it, and the service has certainly done nothing: it was not reached, or refused to begin."""


class PermanentError(ExportError):
    """Time cannot mend it: the service refuses this record. It is not tried again unless somebody asks."""


class ConfigurationError(ExportError):
    """Every record would fail until somebody mends a setting: a wrong token, a template or notebook that is gone."""


@dataclass
class ExportResult:
    """What one export came to. `success=False` counts as permanent; raise `TransientError` for what time can mend."""

    success: bool
    destination_name: str
    record_id: str | None = None  # the destination's own identifier
    record_url: str | None = None  # where a person opens it
    error_message: str | None = None
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    metadata: dict[str, Any] = field(default_factory=dict)  # JSON, kept with the delivery


@dataclass(frozen=True)
class Activity:
    """One acquisition activity: its data files and, pairwise, their preview pictures (None where there is none)."""

    files: tuple[Path, ...] = ()
    previews: tuple[Path | None, ...] = ()


class Checkpoint(Protocol):
    """What this delivery has created and written over there, over all its tries, so that nothing is made twice.

    A step is a short name that the plugin chooses for one object: "record", "page", "attachment".
    """

    def get(self, step: str) -> str | None:
        """The identifier of what `step` has created, or None."""
        ...

    def create(
        self,
        step: str,
        call: Callable[[], str],
        *,
        find: Callable[[], str | None] | None = None,
        content: str | None = None,
        seconds: float | None = None,
    ) -> str:
        """The identifier of what `step` creates: remembered if an earlier try got it, else what `call()` returns.

        `call` makes one creating request, which ends within `seconds` (default `NX_CALL_DEADLINE`), and returns the
        new object's identifier. When an earlier try never learned how its request ended, `find()` is asked first and
        what it finds is adopted; it must return only an object that carries this session's identifier, else None.
        Without `find` the request is simply made again. `content` is a fingerprint of what is sent: see `written`.

        Whatever `call` raises is raised. After `NothingDoneError`, `PermanentError` or `ConfigurationError` nothing was
        created; after any other error it is unknown, and looked up in a later try.
        """
        ...

    def written(self, step: str) -> str | None:
        """The fingerprint of the content that was last written to `step`'s object by us, or None.

        While nobody knows how a creating request ended, it is that of what the request has sent.
        """
        ...

    def wrote(self, step: str, content: str) -> None:
        """Remember that `step`'s object now holds `content` (a fingerprint), after it was changed in place."""
        ...

    def forget(self, step: str, identifier: str) -> None:
        """Drop what `step` has created, if it is this one: somebody deleted it over there, it may be made again."""
        ...


class MemoryCheckpoint:
    """A checkpoint that lasts as long as the context: for plugins run outside a worker, and for tests."""

    def __init__(self) -> None:
        self._identifiers: dict[str, str] = {}
        self._contents: dict[str, str] = {}
        self._unknown: dict[str, str | None] = {}  # step → what was sent by the call that nobody knows about

    def get(self, step: str) -> str | None:
        """See `Checkpoint.get`."""
        return self._identifiers.get(step)

    def create(
        self,
        step: str,
        call: Callable[[], str],
        *,
        find: Callable[[], str | None] | None = None,
        content: str | None = None,
        seconds: float | None = None,  # noqa: ARG002 - there is no lease here
    ) -> str:
        """See `Checkpoint.create`; what an unknown outcome left behind is looked up at once."""
        if step in self._identifiers:
            return self._identifiers[step]
        identifier = find() if step in self._unknown and find is not None else None
        if identifier is not None:
            content = self._unknown[step]
        else:
            self._unknown[step] = content
            try:
                identifier = call()
            except (NothingDoneError, PermanentError, ConfigurationError):
                del self._unknown[step]
                raise
        del self._unknown[step]
        self._identifiers[step] = identifier
        if content is not None:
            self._contents[step] = content
        return identifier

    def written(self, step: str) -> str | None:
        """See `Checkpoint.written`."""
        return self._contents.get(step, self._unknown.get(step))

    def wrote(self, step: str, content: str) -> None:
        """See `Checkpoint.wrote`."""
        self._contents[step] = content

    def forget(self, step: str, identifier: str) -> None:
        """See `Checkpoint.forget`."""
        if self._identifiers.get(step) == identifier:
            del self._identifiers[step]
            self._contents.pop(step, None)


@dataclass(frozen=True)
class Check:
    """One thing that `nexus-tasks destinations --check` looks at over there, without changing anything.

    `look()` returns what it found, in a few words, or raises an `ExportError` that says what to mend. The checks after
    a `needed` one that fails are not made: they could only fail for the same reason.
    """

    name: str  # "reachable", "authentication", "template"
    look: Callable[[], str]
    needed: bool = False


def _no_turn() -> None:
    """Outside of a worker nobody else calls the service."""


@dataclass
class ExportContext:
    """One record, as a destination gets it."""

    xml_file_path: Path  # the record, already checked against the SHA-256 it was built with
    session_identifier: str
    instrument_pid: str
    dt_from: datetime  # session start, with time zone
    dt_to: datetime  # session end, with time zone
    user: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    previous_results: dict[str, ExportResult] = field(default_factory=dict)  # of destinations that it depends on
    activities: list[Activity] = field(default_factory=list)
    reservation_event: Any = None  # as NexusLIMS has it; always None when nexus-tasks built the record
    checkpoint: Checkpoint = field(default_factory=MemoryCheckpoint)  # of this record; optional to use
    shared: Checkpoint = field(default_factory=MemoryCheckpoint)  # of the destination, for what several records share
    take_turn: Callable[[], None] = _no_turn  # before a call that is not made by `open_session`: see `interval`

    def get_result(self, destination_name: str) -> ExportResult | None:
        """What `destination_name` holds of this record, or None when it has not answered yet."""
        return self.previous_results.get(destination_name)

    def has_successful_export(self, destination_name: str) -> bool:
        """Whether `destination_name` holds this record."""
        result = self.get_result(destination_name)
        return result is not None and result.success


@runtime_checkable
class ExportDestination(Protocol):
    """What every destination has.

    Optional, read where they are declared:

    * `depends_on: tuple[str, ...]`: destinations whose results this one uses; it runs after them, and without their
      results if they fail. Not declared: every enabled destination of higher priority.
    * `requires: tuple[str, ...]`: as `depends_on`, but when one of these fails for good this one is skipped.
    * `updates: bool`: `export` may be called again for a record it holds, and brings it up to date in place.
    * `window: int`: how many records may be on their way to it at once, over all workers (default 16). With 1 its
      calls are made one after the other.
    * `interval: float`: the least number of seconds from the start of one call to that of the next, over all workers
      (default 0, at most 60). The calls of `nexus_tasks.exporters.http.open_session` keep to it by themselves; before
      any other call to the service, call `context.take_turn()`. Either may raise; let it pass: the export is called
      again.
    * `half_configured: bool`: some of the settings that it needs are there, others are not; records go out without it,
      and commands say so.
    * `checks() -> Sequence[Check]`: what `nexus-tasks destinations --check` looks at.
    * `record_schema() -> bytes | None`: the XSD by which it judges records; None when it cannot say. The builder checks
      records by it, and asks again after ten minutes; it may call the service, and raise an `ExportError`.
    """

    name: str  # lower case; also the queue `export.<name>`
    priority: int  # 0 to 1000, higher goes first

    @property
    def enabled(self) -> bool:
        """Whether the settings that it needs are there."""
        ...

    def validate_config(self) -> tuple[bool, str | None]:
        """Check the settings, without network: (True, None), or (False, one sentence that says what to mend)."""
        ...

    def export(self, context: ExportContext) -> ExportResult:
        """Make the remote system hold the record; called again after a failure, in any worker.

        Raises `TransientError`, `PermanentError` or `ConfigurationError`; any other exception counts as permanent.
        """
        ...
