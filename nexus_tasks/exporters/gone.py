"""Says that an object is gone, or is another's by now, and how to have it made again; used by the destinations.

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


class NotOursError(GoneError):
    """Another's object stands under the number of ours; `what` says which, `setting` holds the service's address."""

    def __init__(self, what: str, service: str, setting: str) -> None:
        super().__init__(f"{what}, and was left as it is. Was {service} restored from a backup?")
        self.to_do_first = f"Where {setting} has come to name another {service}, set that back and retry. "


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
