"""Reads what eLabFTW's calls are given, and refuses what it would refuse; used by `experiments` and `uploads`."""

import json
from typing import Any

from nexus_tasks.sandbox.services.elabftw.answers import refuse
from nexus_tasks.sandbox.services.messages import Request


def json_body(request: Request) -> dict[str, Any]:
    """The body, a JSON object; raises `Refused`."""
    if request.content_type != "application/json":
        refuse(400, "Incorrect content-type header.")
    try:
        values = json.loads(request.body or b"{}")
        json.dumps(values, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except ValueError:
        refuse(400, "Error decoding json payload.")
    if not isinstance(values, dict):
        refuse(400, "A JSON object is needed.")
    return values


def numbers(text: str, name: str) -> list[int]:
    """Numbers with commas between them; raises `Refused` with the `name` of the parameter."""
    given = text.split(",")
    if not all(number.strip().isdecimal() for number in given):
        refuse(400, f"{name} must be a number.")
    return [int(number) for number in given]
