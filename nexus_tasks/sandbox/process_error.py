"""The error of the sandbox's programs and servers; raised all over the sandbox, and by what runs on it."""

from nexus_tasks.plain_error import PlainError


class ProcessError(PlainError):
    """A program did not start, get ready or end; the message holds the end of its log."""
