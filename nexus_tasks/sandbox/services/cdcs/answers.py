"""The answers of CDCS that several calls give, most of them refusals; used by `records`, `site` and `service`."""

from typing import NoReturn

from nexus_tasks.sandbox.services.cdcs.installation import Installation
from nexus_tasks.sandbox.services.messages import Response
from nexus_tasks.sandbox.services.service import Refused


def message(status: int, said: str | dict[str, list[str]]) -> Response:
    """What CDCS's own code says."""
    return Response.json(status, {"message": said})


def detail(status: int, said: str) -> Response:
    """What the framework below it says."""
    return Response.json(status, {"detail": said})


def refuse(status: int, said: str | dict[str, list[str]]) -> NoReturn:
    """End the call with a message; raises `Refused`."""
    raise Refused(message(status, said))


def refuse_unless_administrator(installation: Installation) -> None:
    """End a call that only a superuser may make; raises `Refused`."""
    if not installation.administrator:
        raise Refused(detail(403, "You do not have permission to perform this action."))
