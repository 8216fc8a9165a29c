"""A stand-in for CDCS: the calls of its REST interface that a destination needs, with their odd sides.

The behaviour is that of core-main-app with SQL search: 2.18 and 2.23 answer these calls alike. `StandIns` starts it.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Any, ClassVar
from urllib.parse import quote

from lxml import etree

from nexus_tasks.sandbox.services.cdcs.answers import detail
from nexus_tasks.sandbox.services.cdcs.installation import ANY_EXPERIMENT_XSD, Installation
from nexus_tasks.sandbox.services.cdcs.objects import Database
from nexus_tasks.sandbox.services.cdcs.pages import Pages
from nexus_tasks.sandbox.services.cdcs.records import RecordCalls
from nexus_tasks.sandbox.services.cdcs.site import SiteCalls
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Handler, Refused, Service


class Cdcs(Service):
    """CDCS with one user, two public workspaces and two templates.

    `xsd` is the schema of the current template. Without one, every well-formed document is valid, which no XML schema
    can say: the template then claims to be of another format, so that nobody validates by it. `administrator` says that
    the token's user is a superuser, `document_field` what the site calls a document (`xml_content` or `content`),
    `clock_ahead` by how many seconds its clock is wrong.
    """

    name: ClassVar[str] = "CDCS"
    pages: ClassVar[frozenset[str]] = frozenset({"/", "/data"})

    def __init__(
        self,
        token: str,
        xsd: bytes | None = None,
        *,
        administrator: bool = False,
        document_field: str = "xml_content",
        clock_ahead: float = 0,
    ) -> None:
        self._clock_ahead = clock_ahead
        self._installation = Installation(
            token,
            administrator,
            document_field,
            xsd.decode() if xsd is not None else ANY_EXPERIMENT_XSD,
            etree.XMLSchema(etree.fromstring(xsd)) if xsd is not None else None,
        )
        self._database = Database()
        super().__init__()

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            *Pages(self.name, self._database).routes(),
            *RecordCalls(self._database, self._installation).routes(),
            *SiteCalls(self._database, self._installation).routes(),
        ]

    def authenticate(self, request: Request) -> None:
        """See `Service.authenticate`."""
        given = request.headers.get("Authorization")
        if given is None:
            raise Refused(detail(403, "Authentication credentials were not provided."))
        if given != f"Token {self._installation.token}":
            raise Refused(detail(403, "Invalid token."))

    def answer(self, request: Request) -> Response:
        """See `Service.answer`."""
        response = super().answer(request)
        date = formatdate(time.time() + self._clock_ahead, usegmt=True)
        return replace(response, headers=(*response.headers, ("Date", date)))

    def not_found(self, request: Request) -> Response:
        """See `Service.not_found`."""
        with_slash = request.path + "/"
        if not request.path.endswith("/") and any(path.fullmatch(with_slash) for _, path, _ in self._routes):
            query = "&".join(
                f"{quote(name)}={quote(value)}" for name, values in request.query.items() for value in values
            )
            location = with_slash + (f"?{query}" if query else "")
            return Response(301, b"", "text/html; charset=utf-8", (("Location", location),))
        if any(path.fullmatch(request.path) for _, path, _ in self._routes):
            return detail(405, f'Method "{request.method}" not allowed.')
        return Response.html(404, "<!doctype html><title>Not Found</title><h1>Not Found</h1>")

    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """See `Service.objects`."""
        return self._database.listed(content=content)

    def reset(self) -> None:
        """See `Service.reset`."""
        self._database.clear()
