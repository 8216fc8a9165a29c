"""Says that an object was deleted over there, and how to have it made again; used by the destinations.

What people deleted is made again only when somebody asks for it.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from nexus_tasks.exporters.base import ExportContext, PermanentError


class GoneError(PermanentError):
    """An object that we made is not there any more; the message says which, in one sentence."""

    to_do_first = ""


class PartGoneError(GoneError):
    """A part of it is not there any more, such as an attached file; to have it made again is to make all of it anew."""

    to_do_first = "What is left would stay beside a new one: delete or archive that first. "


@contextmanager
def advice_to_recreate(context: ExportContext, destination: str) -> Iterator[None]:
    """Turn a `GoneError` of the block into the `PermanentError` that names the command."""
    try:
        yield
    except GoneError as error:
        session = shlex.quote(context.session_identifier)
        raise PermanentError(
            f"{error} {error.to_do_first}To have it made again: "
            f"nexus-tasks retry {session} --destination {destination} --recreate"
        ) from None
