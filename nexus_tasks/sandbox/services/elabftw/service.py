"""A stand-in for eLabFTW: experiments, tags and uploads of its REST interface v2, as strict as the service.

The behaviour is that of 5.3.11, or of an older release given as `version`; `StandIns` starts it.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Any, ClassVar

from nexus_tasks.sandbox.services.elabftw.answers import error, refuse
from nexus_tasks.sandbox.services.elabftw.experiments import ExperimentCalls
from nexus_tasks.sandbox.services.elabftw.installation import READ_ONLY_API_KEY, VERSION, Installation
from nexus_tasks.sandbox.services.elabftw.instance import InstanceCalls
from nexus_tasks.sandbox.services.elabftw.objects import Database
from nexus_tasks.sandbox.services.elabftw.pages import Pages
from nexus_tasks.sandbox.services.elabftw.uploads import UploadCalls
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Handler, Service


class Elabftw(Service):
    """eLabFTW with one team and one user.

    `version` is `elabftw_version_int`: before 50200, POST ignores body and metadata. Beside `api_key` there is
    `READ_ONLY_API_KEY`. `clock_ahead`: seconds by which the `Date` of its answers is ahead of the time. Of the team's
    settings, `user_create_tag` says whether the user may make tags that the team does not have yet, `force_exp_tpl`
    whether experiments are made from templates only.
    """

    name: ClassVar[str] = "eLabFTW"
    pages: ClassVar[frozenset[str]] = frozenset({"/", "/experiments.php", "/app/download.php"})

    def __init__(
        self,
        api_key: str,
        version: int = VERSION,
        *,
        clock_ahead: float = 0.0,
        user_create_tag: bool = True,
        force_exp_tpl: bool = False,
    ) -> None:
        self._clock_ahead = clock_ahead
        self._installation = Installation(api_key, version, user_create_tag, force_exp_tpl)
        self._database = Database()
        super().__init__()

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            *Pages(self.name, self._database).routes(),
            *InstanceCalls(self._database, self._installation).routes(),
            *ExperimentCalls(self._database, self._installation).routes(),
            *UploadCalls(self._database).routes(),
        ]

    def authenticate(self, request: Request) -> None:
        """See `Service.authenticate`."""
        given = request.headers.get("Authorization")
        if given is None:
            refuse(403 if 50200 <= self._installation.version < 50300 else 401, "Access to the API requires a key.")
        if given not in {self._installation.api_key, READ_ONLY_API_KEY}:
            refuse(401, "No corresponding API key found!")
        if given == READ_ONLY_API_KEY and request.method != "GET":
            refuse(400, "You are using a read-only key to execute a write action.")

    def not_found(self, request: Request) -> Response:
        """See `Service.not_found`."""
        return error(404, f"There is nothing at {request.path}.")

    def answer(self, request: Request) -> Response:
        """See `Service.answer`; an answer tells the service's time, as those of web servers do."""
        response = super().answer(request)
        date = formatdate(time.time() + self._clock_ahead, usegmt=True)
        return replace(response, headers=(*response.headers, ("Date", date)))

    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """See `Service.objects`."""
        return self._database.listed(content=content)

    def reset(self) -> None:
        """See `Service.reset`."""
        self._database.experiments.clear()
