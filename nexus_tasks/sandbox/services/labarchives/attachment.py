"""An attachment as it is downloaded: by the interface (`rest`) and from a page (`pages`)."""

import mimetypes
from urllib.parse import quote

from nexus_tasks.sandbox.services.labarchives.objects import Entry
from nexus_tasks.sandbox.services.messages import Response


def download(entry: Entry) -> Response:
    """The content of an attachment, under its name."""
    filename = entry.filename or "attachment"
    media_type = mimetypes.guess_type(filename)[0] or "application/octet-stream"
    disposition = ("Content-Disposition", f"attachment; filename*=UTF-8''{quote(filename)}")
    return Response(200, entry.content, media_type, (disposition, ("X-Content-Type-Options", "nosniff")))
