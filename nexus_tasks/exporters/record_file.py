"""Reads the record document that a destination sends; called by the destinations, once per export."""

from contextlib import suppress

from nexus_tasks.exporters.base import ExportContext, PermanentError, TransientError


def read_record(context: ExportContext) -> bytes:
    """The document, byte for byte; raises `TransientError` when it cannot be read: the next try locates it anew."""
    try:
        return context.xml_file_path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise TransientError(
        f"The record file of session {context.session_identifier} cannot be read ({reason}): {context.xml_file_path}. "
        "If it stays so, put the file back and make it readable for the workers' user, or build the session again."
    )


def read_utf8_record(context: ExportContext) -> bytes:
    """The document; raises `TransientError` when it cannot be read, `PermanentError` when it is not UTF-8."""
    document = read_record(context)
    with suppress(UnicodeDecodeError):
        document.decode("utf-8")
        return document
    raise PermanentError(
        f"The record of session {context.session_identifier} is not UTF-8: {context.xml_file_path}. "
        "Build the session again, and retry."
    )
