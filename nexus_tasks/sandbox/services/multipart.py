"""Read a `multipart/form-data` body into its parts; used by the eLabFTW stand-in for uploads."""

from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

from nexus_tasks.sandbox.services.messages import Request


@dataclass(frozen=True)
class Part:
    """One field of a form; `filename` is None for a field that is no file."""

    content: bytes
    filename: str | None


def read_parts(request: Request) -> dict[str, Part]:
    """The parts by field name; raises ValueError if the request is no well-formed multipart form."""
    header = Message()
    header["Content-Type"] = request.content_type
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        raise ValueError("the request is no multipart/form-data")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    pieces = (b"\r\n" + request.body).split(delimiter)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise ValueError("the multipart form has no end")
    parts: dict[str, Part] = {}
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        fields = HeaderParser().parsestr(head.decode("utf-8", "replace"))
        name = fields.get_param("name", header="content-disposition")
        if isinstance(name, str):
            parts[name] = Part(content, fields.get_filename())
    return parts
