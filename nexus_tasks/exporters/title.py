"""The name under which a record stands in CDCS, and which its attachments and its stored document bear.

Used by the destinations, the builder, and whoever takes in records. NexusLIMS has another one, which matters for what
it left behind: the take-over of its database and look-ups use it.
"""

import hashlib
import re
from datetime import date
from urllib.parse import parse_qs, parse_qsl, urlsplit

from nexus_tasks.exporters.base import ExportContext

LONGEST_IDENTIFIER = 60  # characters of the session identifier in a title
LONGEST_INSTRUMENT = 100  # with date and joints a title stays below the 200 characters of CDCS
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def record_title(context: ExportContext) -> str:
    """`{YYYY-MM-DD}_{instrument_pid}_{short session id}`: ASCII, safe as a file name, at most 200 characters.

    The date is that of the session's start in the time zone it was given with.
    """
    return title_of(context.dt_from, context.instrument_pid, context.session_identifier)


def title_of(start: date, instrument_pid: str, session_identifier: str) -> str:
    """As `record_title`, for what has no context: the document of a record is named so."""
    instrument = _safe(instrument_pid, LONGEST_INSTRUMENT)
    return f"{start:%Y-%m-%d}_{instrument}_{short_session_id(session_identifier)}"


def nexuslims_title(start: date, instrument_pid: str, session_identifier: str) -> str:
    """As NexusLIMS calls the record of a session, in CDCS and, without the suffix, its file."""
    short = usage_event_of(session_identifier) or session_identifier.partition("-")[0]
    return f"{start:%Y-%m-%d}_{instrument_pid}_{short}"


def usage_event_of(session_identifier: str) -> str | None:
    """The number of the NEMO usage event that a session identifier is the address of, None if it is something else."""
    of_nemo = parse_qs(urlsplit(session_identifier).query).get("id") if "://" in session_identifier else None
    return of_nemo[0] if of_nemo else None


def attachment_name(context: ExportContext, suffix: str = ".xml") -> str:
    """The file name of an attachment that holds the record."""
    return record_title(context) + suffix


def short_session_id(session_identifier: str) -> str:
    """A session identifier that is short and safe, and still unique.

    Of a web address the last part of the path is taken, with the values of the query behind it
    (`…/usage_events/?id=303` becomes `usage_events-303`). Where characters had to go, a short hash stands for them.
    """
    parts = urlsplit(session_identifier) if "://" in session_identifier else None
    if parts is None:
        return _safe(session_identifier, LONGEST_IDENTIFIER)
    segments = [segment for segment in parts.path.split("/") if segment]
    values = [value for _, value in parse_qsl(parts.query)]
    return _safe("-".join([*segments[-1:], *values]) or session_identifier, LONGEST_IDENTIFIER)


def _safe(text: str, longest: int) -> str:
    safe = _UNSAFE.sub("-", text).strip("-.")
    if safe == text and len(safe) <= longest:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:8]
    return f"{safe[: longest - 9]}-{digest}".lstrip("-")
