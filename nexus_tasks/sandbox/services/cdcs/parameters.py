"""Reads what CDCS's calls are given: a form or JSON; used by `records` and `site`."""

import json
from collections.abc import Mapping
from typing import Any

from nexus_tasks.sandbox.services.cdcs.answers import refuse
from nexus_tasks.sandbox.services.messages import Request


def read_values(request: Request) -> Mapping[str, Any]:
    """The parameters in the body; raises `Refused`."""
    if request.content_type.split(";")[0].strip() == "application/x-www-form-urlencoded":
        return {name: sent[-1] for name, sent in request.form().items()}
    if request.content_type.split(";")[0].strip() != "application/json":
        refuse(500, f'Unsupported media type "{request.content_type}" in request.')
    try:
        given = json.loads(request.body)
    except ValueError as error:
        refuse(500, f"JSON parse error - {error}")
    if not isinstance(given, dict):
        refuse(400, {"non_field_errors": ["Invalid data. Expected a dictionary."]})
    return given
