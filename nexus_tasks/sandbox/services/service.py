"""The base of the three stand-ins: a table of routes over state in memory; the server calls it under one lock."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from urllib.parse import unquote

from nexus_tasks.sandbox.services.messages import Request, Response

NUMBER_IN_PATH = re.compile(r"(?<=/)\d+(?=/|$)")

Handler = Callable[[Request, re.Match[str]], Response]


class Refused(Exception):  # noqa: N818 - a service's answer, not a defect
    """Raised anywhere inside a handler to end the call with this answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Service(ABC):
    """One stand-in: what it answers, what it holds, and the pages on which a person sees it."""

    name: ClassVar[str]
    pages: ClassVar[frozenset[str]]  # paths that a browser opens; neither counted nor faulted

    def __init__(self) -> None:
        self._routes = [(method, re.compile(path), handler) for method, path, handler in self.routes()]

    @abstractmethod
    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """Method, regular expression for the whole path, handler; the first that fits answers."""

    @abstractmethod
    def not_found(self, request: Request) -> Response:
        """The answer to a call that no route fits."""

    @abstractmethod
    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """All it holds, as JSON; `content` adds the long texts."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything that was written to it."""

    def admit(self, concurrent: int, seconds_since_last: float) -> Response | None:  # noqa: ARG002
        """Refuse a call because of the calls beside or before it; None lets it in."""
        return None

    def authenticate(self, request: Request) -> None:  # noqa: B027 - a service need not ask who calls
        """Raise `Refused` for a call (not a page) without the right credentials."""

    def is_page(self, request: Request) -> bool:
        """Whether a person's browser asks, rather than a client of the interface."""
        return request.method == "GET" and request.path in self.pages | {"/favicon.ico"}

    def path_template(self, path: str) -> str:
        """The path with numbers made general, to count calls by kind."""
        return NUMBER_IN_PATH.sub("{id}", path)

    def answer(self, request: Request) -> Response:
        """Handle one request."""
        try:
            if not self.is_page(request):
                self.authenticate(request)
            for method, path, handler in self._routes:
                match = path.fullmatch(unquote(request.path))
                if match is not None and method == request.method:
                    return handler(request, match)
            return self.not_found(request)
        except Refused as refused:
            return refused.response
