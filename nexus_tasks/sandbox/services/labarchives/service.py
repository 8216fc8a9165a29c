"""A stand-in for LabArchives: the signed ELN calls that a destination needs, and a page that shows the notebook.

Never compared with the real service. Where its documentation is silent (HTTP statuses of errors, the code for an
unknown page or a missing right), the answers here are guesses; `StandIns` starts it. As over there, an answer repeats
the request that it answers, with what signed it, and there is no call that deletes.
"""

import hmac
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Any, ClassVar

from nexus_tasks.sandbox.services.labarchives.account import Account, signature
from nexus_tasks.sandbox.services.labarchives.objects import Notebook
from nexus_tasks.sandbox.services.labarchives.pacing import SHORTEST_INTERVAL, Pacing
from nexus_tasks.sandbox.services.labarchives.pages import Pages
from nexus_tasks.sandbox.services.labarchives.rest import LOGIN, Calls, parameters
from nexus_tasks.sandbox.services.labarchives.xml import (
    BAD_KEY,
    BAD_SIGNATURE,
    EXPIRED,
    INTERNAL,
    UNKNOWN_USER,
    error_response,
    refuse,
)
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Handler, Service

CLOCK_TOLERANCE = 120  # seconds, before and after
MAX_FILE_SIZE = 262_144_000  # bytes


class Labarchives(Service):
    """LabArchives with one user and one notebook.

    `pacing` refuses calls that come too fast, `interval` is its time in seconds. `read_only` takes the right to write
    from the user. `clock` gives the time in epoch seconds.
    """

    name: ClassVar[str] = "LabArchives"
    pages: ClassVar[frozenset[str]] = frozenset({"/", "/attachment"})

    def __init__(
        self,
        account: Account,
        *,
        pacing: Pacing | None = None,
        interval: float = SHORTEST_INTERVAL,
        max_file_size: int = MAX_FILE_SIZE,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._account = account
        self._pacing = pacing
        self._interval = interval
        self._clock = clock
        self.notebook = Notebook()
        self._calls = Calls(account, self.notebook, max_file_size=max_file_size, read_only=read_only)
        super().__init__()

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            *Pages(self.name, self._account.nbid, self.notebook).routes(),
            *self._calls.routes(),
        ]

    def admit(self, concurrent: int, seconds_since_last: float) -> Response | None:
        """See `Service.admit`."""
        beside, soon = concurrent > 0, seconds_since_last < self._interval
        refused = {Pacing.SERIAL: beside, Pacing.INTERVAL: soon, Pacing.EITHER: beside and soon}
        if self._pacing is not None and refused[self._pacing]:
            return error_response("error", 429, INTERNAL, "Calls must be at least one second apart, or serial.")
        return None

    def answer(self, request: Request) -> Response:
        """See `Service.answer`; with the time by its own clock."""
        response = super().answer(request)
        return replace(response, headers=(*response.headers, ("Date", formatdate(self._clock(), usegmt=True))))

    def authenticate(self, request: Request) -> None:
        """See `Service.authenticate`."""
        given = {name: request.parameter(name) or "" for name in ("akid", "expires", "sig")}
        method = request.path.rpartition("/")[2]
        if given["akid"] != self._account.akid:
            refuse(request, 401, BAD_KEY, "The Access Key ID (akid) is not valid.")
        if not re.fullmatch(r"\d{1,15}", given["expires"]):
            refuse(request, 401, EXPIRED, "The expires parameter is missing or not a number.")
        if abs(int(given["expires"]) / 1000 - self._clock()) > CLOCK_TOLERANCE:
            refuse(request, 401, EXPIRED, "The expires parameter is too old, or too far ahead.")
        expected = signature(self._account.password, self._account.akid, method, given["expires"])
        if not hmac.compare_digest(given["sig"].encode(), expected.encode()):
            refuse(request, 401, BAD_SIGNATURE, "The supplied signature is not valid.")
        if request.path != LOGIN and parameters(request).get("uid") != self._account.uid:
            refuse(request, 401, UNKNOWN_USER, "The uid is not known.")

    def not_found(self, request: Request) -> Response:
        """See `Service.not_found`."""
        return Response.html(404, f"<h1>There is nothing to {request.method} here</h1>")

    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """See `Service.objects`."""
        return self.notebook.listed(content=content)

    def reset(self) -> None:
        """See `Service.reset`."""
        self.notebook.clear()
