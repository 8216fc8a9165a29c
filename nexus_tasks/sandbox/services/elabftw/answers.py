"""The answers of eLabFTW that several calls or pages give: errors, the place of what was made, a file."""

import re
from typing import NoReturn
from urllib.parse import quote

from nexus_tasks.sandbox.services.elabftw.objects import Upload
from nexus_tasks.sandbox.services.messages import Response
from nexus_tasks.sandbox.services.service import Refused

PUBLIC_BASE = "https://elabftw.sandbox.invalid"  # the host in Location need not be the one that was called

NAMES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Resource Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
    500: "Unexpected error",
}


def error(status: int, description: str) -> Response:
    """An error in eLabFTW's shape."""
    return Response.json(status, {"code": status, "message": NAMES[status], "description": description})


def refuse(status: int, description: str) -> NoReturn:
    """End the call with an error; raises `Refused`."""
    raise Refused(error(status, description))


def created(path: str) -> Response:
    """201, with the address of what was made."""
    return Response(201, b"", "text/html; charset=UTF-8", (("Location", PUBLIC_BASE + path),))


def download(upload: Upload, disposition: str, kind: str) -> Response:
    """The content of a file, under its name; `disposition` is inline or attachment, `kind` the media type."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", upload.real_name)
    named = f"{disposition}; filename={plain}"
    if plain != upload.real_name:
        named = f"{disposition}; filename={plain}; filename*=utf-8''{quote(upload.real_name)}"
    headers = (("Content-Disposition", named), ("X-Content-Type-Options", "nosniff"))
    return Response(200, upload.content, kind, headers)
