"""Reads the record document that a destination sends; called by the destinations, once per export."""

from nexus_tasks.exporters.base import ExportContext, PermanentError


def read_record(context: ExportContext) -> bytes:
    """The document, byte for byte; raises `PermanentError` when it cannot be read."""
    try:
        return context.xml_file_path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise PermanentError(
        f"The record of session {context.session_identifier} cannot be read ({reason}): {context.xml_file_path}. "
        "Put the file back, or build the session again, and retry."
    )


def read_record_text(context: ExportContext) -> str:
    """The document as text; raises `PermanentError` when it cannot be read or is not UTF-8."""
    try:
        return read_record(context).decode("utf-8")
    except UnicodeDecodeError:
        pass
    raise PermanentError(
        f"The record of session {context.session_identifier} is not UTF-8: {context.xml_file_path}. "
        "Build the session again, and retry."
    )
