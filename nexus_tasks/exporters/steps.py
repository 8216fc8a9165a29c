"""The steps of one export: creates or adopts each object once, and knows what it holds; used by the destinations.

A checkpoint remembers identifiers and fingerprints; this adds what an export needs on top: whether an object was made
just now, and what is over there when it was found rather than made.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from nexus_tasks.exporters.base import Checkpoint

UNKNOWN = "unknown"  # stands where a fingerprint would: the object exists, what it holds is not known

Done = Literal["created", "updated", "unchanged"]


@dataclass(frozen=True)
class Found:
    """An object of this session that a look-up found; `content` is the fingerprint of what it holds, if known."""

    identifier: str
    content: str | None = None


@dataclass(frozen=True)
class Held:
    """An object over there; `content` is the fingerprint of what it holds, None or `UNKNOWN` if that is not known."""

    identifier: str
    content: str | None
    created: bool = False  # by this export, just now


class Steps:
    """The steps of one export over its checkpoint; `main` is the step of the object that the export is about."""

    def __init__(self, checkpoint: Checkpoint, main: str) -> None:
        self.checkpoint = checkpoint
        self._main = main
        self._created: set[str] = set()
        self._updated = False

    @property
    def done(self) -> Done:
        """What the export has done up to now, for `ExportResult.metadata`."""
        if self._main in self._created:
            return "created"
        return "updated" if self._created or self._updated else "unchanged"

    def ensure(
        self,
        step: str,
        call: Callable[[], str | Found],
        *,
        find: Callable[[], Found | None] | None = None,
        content: str | None = None,
        seconds: float | None = None,
    ) -> Held:
        """The object of `step`: remembered, found, or made by `call`. The parameters are those of `Checkpoint.create`.

        What an object that was found holds is taken from the look-up; only where that could not tell, it is what the
        request is known to have sent. A `call` that was refused, but left an object behind, returns that as `Found`.
        """
        found: list[Found] = []
        made: list[str] = []

        def finding() -> str | None:
            candidate = None if find is None else find()
            if candidate is None:
                return None
            found.append(candidate)
            return candidate.identifier

        def calling() -> str:
            outcome = call()
            if isinstance(outcome, Found):  # what was sent is not what was refused
                found.append(replace(outcome, content=outcome.content or UNKNOWN))
                return outcome.identifier
            made.append(outcome)
            return outcome

        identifier = self.checkpoint.create(
            step, calling, find=None if find is None else finding, content=content, seconds=seconds
        )
        if made:
            self._created.add(step)
            return Held(identifier, content, created=True)
        remembered = self.checkpoint.written(step)
        if not found:
            return Held(identifier, remembered)
        holds = found[-1].content or remembered
        if holds is not None and holds != remembered:
            self.checkpoint.wrote(step, holds)
        return Held(identifier, holds)

    def adopt(self, step: str, found: Found) -> Held:
        """Remember an object that was found without a request of this step."""
        self.checkpoint.create(
            step, lambda: found.identifier, find=lambda: found.identifier, content=found.content
        )  # with a look-up, so that nothing stays open of an earlier request
        return Held(found.identifier, found.content)

    def begin_update(self, step: str, content: str = UNKNOWN) -> None:
        """Directly before an object is changed: until the answer is there, nobody knows what it holds."""
        if self.checkpoint.written(step) != content:
            self.checkpoint.wrote(step, content)

    def end_update(self, step: str, content: str) -> None:
        """An object was changed in place, and holds `content` (a fingerprint)."""
        self.checkpoint.wrote(step, content)
        self._updated = True


def fingerprint(*parts: str | bytes) -> str:
    """SHA-256 of what is sent, of one part the same as of its bytes; one that is bytes is not copied."""
    return hashlib.sha256(
        b"\0".join(part.encode("utf-8", errors="surrogatepass") if isinstance(part, str) else part for part in parts)
    ).hexdigest()
