"""What can go wrong on the way to a service: the faults that tests, `sandbox fault` and the chaos run ask for."""

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from random import Random
from typing import Any, Self

from nexus_tasks.sandbox.services.messages import Response, reason


class FaultKind(StrEnum):
    """How a call goes wrong; `_after` means that the service has handled and saved it before."""

    LATENCY = "latency"  # the answer takes `seconds` longer
    STATUS = "status"  # answers `status` instead of handling
    STATUS_AFTER = "status_after"  # saved, answers `status`
    RESET = "reset"  # connection reset, nothing saved
    RESET_AFTER = "reset_after"  # saved, connection reset
    HANG = "hang"  # says nothing for `seconds` (None: for ever), then closes; nothing saved
    HANG_AFTER = "hang_after"  # saved, then as `hang`
    TRUNCATE = "truncate"  # saved, the answer is cut off half-way
    LATE = "late"  # says nothing (with `status`: answers that at once), is saved `seconds` later


NEEDS_SECONDS = {FaultKind.LATENCY, FaultKind.LATE}
NEEDS_STATUS = {FaultKind.STATUS, FaultKind.STATUS_AFTER}


@dataclass(frozen=True)
class Fault:
    """One fault, and the calls that it applies to."""

    kind: FaultKind
    status: int | None = None
    seconds: float | None = None
    retry_after: float | str | None = None  # seconds or an HTTP date, sent with `status`
    body: str | None = None  # sent with `status`; None: the page that a proxy would send
    method: str | None = None  # only calls with this method
    path: str | None = None  # only calls in whose path this regular expression is found
    times: int | None = None  # only so many calls; None: for ever
    rate: float = 1.0  # the share of calls, by a seeded random number

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FaultKind(self.kind))
        if self.kind in NEEDS_SECONDS and self.seconds is None:
            raise ValueError(f"a fault of kind {self.kind} needs seconds")
        if self.kind in NEEDS_STATUS and self.status is None:
            raise ValueError(f"a fault of kind {self.kind} needs a status")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError("status must be a final HTTP status, 200 to 599")
        if self.seconds is not None and self.seconds < 0:
            raise ValueError("seconds must not be negative")
        if self.times is not None and self.times < 1:
            raise ValueError("times must be at least 1, or null for ever")
        if not 0 <= self.rate <= 1:
            raise ValueError("rate must be between 0 and 1")
        if self.path is not None:
            try:
                re.compile(self.path)
            except re.error as error:
                raise ValueError(f"path is not a regular expression: {error}") from None

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `as_json` writes; raises ValueError with one sentence."""
        if not isinstance(value, Mapping):
            raise ValueError("a fault is a JSON object")  # noqa: TRY004 - one error type for bad input
        known = {each.name for each in fields(cls)}
        unknown = set(value) - known - {"applied"}
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
        try:
            return cls(**{name: value[name] for name in known & set(value)})
        except TypeError as error:
            raise ValueError(f"not a fault: {error}") from None

    def as_json(self) -> dict[str, Any]:
        """The fault as JSON."""
        return asdict(self)

    def fits(self, method: str, path: str) -> bool:
        """Whether its filters let this call through to it."""
        if self.method is not None and self.method.upper() != method:
            return False
        return self.path is None or re.search(self.path, path) is not None

    def response(self) -> Response:
        """The answer that it gives in place of the service's."""
        status = self.status or 500
        headers: tuple[tuple[str, str], ...] = ()
        if self.retry_after is not None:
            wait = self.retry_after if isinstance(self.retry_after, str) else f"{self.retry_after:g}"
            headers = (("Retry-After", wait),)
        text = self.body if self.body is not None else proxy_page(status)
        return Response(status, text.encode(), content_type_of(text), headers)


def proxy_page(status: int) -> str:
    """What a reverse proxy in front of a service says when it has to speak for it."""
    words = f"{status} {reason(status)}"
    return (
        f"<html>\r\n<head><title>{words}</title></head>\r\n<body>\r\n<center><h1>{words}</h1></center>\r\n"
        "<hr><center>proxy</center>\r\n</body>\r\n</html>\r\n"
    )


def content_type_of(text: str) -> str:
    """The media type of a fault's body, by its first characters."""
    if text.startswith(("{", "[")):
        return "application/json"
    if text.startswith(("<?xml", "<error")):
        return "application/xml"
    return "text/html"


@dataclass(frozen=True)
class Trouble:
    """What one call gets."""

    latency: float = 0.0  # seconds
    fault: Fault | None = None


class FaultInjector:
    """The faults of one stand-in, in order; safe to use from all of its threads."""

    def __init__(self, faults: Iterable[Fault] = (), random: Random | None = None) -> None:
        self._lock = threading.Lock()
        self._random = random or Random(0)  # noqa: S311 - repeatable, not secret
        self._faults = list(faults)
        self._applied = [0] * len(self._faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Forget the faults there are and take these."""
        with self._lock:
            self._faults = list(faults)
            self._applied = [0] * len(self._faults)

    def as_json(self) -> list[dict[str, Any]]:
        """The faults in order, each with `applied`, the number of calls that got it."""
        with self._lock:
            pairs = zip(self._faults, self._applied, strict=True)
            return [fault.as_json() | {"applied": applied} for fault, applied in pairs]

    def choose(self, method: str, path: str) -> Trouble:
        """What this call gets: every latency that fits, added up, and the first other fault that fits."""
        latency = 0.0
        with self._lock:
            for index, fault in enumerate(self._faults):
                if not self._applies(index, method, path):
                    continue
                self._applied[index] += 1
                if fault.kind is not FaultKind.LATENCY:
                    return Trouble(latency + self._later_latency(index, method, path), fault)
                latency += fault.seconds or 0.0
        return Trouble(latency)

    def _applies(self, index: int, method: str, path: str) -> bool:
        fault = self._faults[index]
        if fault.times is not None and self._applied[index] >= fault.times:
            return False
        return fault.fits(method, path) and (fault.rate >= 1 or self._random.random() < fault.rate)

    def _later_latency(self, after: int, method: str, path: str) -> float:
        latency = 0.0
        for index in range(after + 1, len(self._faults)):
            fault = self._faults[index]
            if fault.kind is FaultKind.LATENCY and self._applies(index, method, path):
                self._applied[index] += 1
                latency += fault.seconds or 0.0
        return latency
