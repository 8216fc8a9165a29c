"""The other door of every stand-in, `/_sandbox/`: what it holds, what was asked of it, and its faults.

Tests, the demo and `nexus-tasks sandbox fault` use it through `client`; nothing done here is counted or faulted.
"""

import json
from typing import Any, Protocol

from nexus_tasks.sandbox.services.calls import CallLog
from nexus_tasks.sandbox.services.faults import Fault, FaultInjector
from nexus_tasks.sandbox.services.messages import Request, Response

PREFIX = "/_sandbox/"


class Administered(Protocol):
    """What this door opens on: a stand-in."""

    calls: CallLog
    faults: FaultInjector

    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """What it holds."""
        ...

    def reset(self) -> None:
        """Have it hold nothing, and forget what was asked of it."""
        ...


def answer(stand_in: Administered, request: Request) -> Response:
    """Answer one administrative call; 400 with a sentence for faults that cannot be read, 404 for anything unknown."""
    match request.method, request.path.removeprefix(PREFIX):
        case "GET", "objects":
            return Response.json(200, stand_in.objects(content=request.parameter("content") == "true"))
        case "GET", "calls":
            return Response.json(200, stand_in.calls.as_json())
        case "GET", "faults":
            return Response.json(200, stand_in.faults.as_json())
        case "POST", "faults":
            return _replace_faults(stand_in, request.body)
        case "POST", "reset":
            stand_in.reset()
            return Response.json(200, {})
        case _:
            return Response.json(404, {"message": "there is no such thing: objects, calls, faults, reset"})


def _replace_faults(stand_in: Administered, body: bytes) -> Response:
    try:
        values = json.loads(body)
        if not isinstance(values, list):
            raise ValueError("a JSON list of faults is needed")  # noqa: TRY004, TRY301 - answered below
        stand_in.faults.replace([Fault.from_json(value) for value in values])
    except ValueError as error:
        return Response.json(400, {"message": str(error)})
    return Response.json(200, stand_in.faults.as_json())
