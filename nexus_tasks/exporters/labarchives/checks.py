"""What `nexus-tasks destinations --check` looks at in LabArchives; called by the LabArchives destination.

Every look is one or two reading calls, one after the other, as its terms ask.
"""

from collections.abc import Callable, Sequence

from nexus_tasks.exporters.base import Check, ConfigurationError
from nexus_tasks.exporters.clock_check import describe_clock
from nexus_tasks.exporters.labarchives.api import ROOT, LabArchivesApi
from nexus_tasks.exporters.labarchives.folders import TOP_FOLDER
from nexus_tasks.exporters.labarchives.signature import CLOCK_TOLERANCE

CLOCK_MARGIN = 30.0  # seconds: a clock drifts, and a call is on its way for a while before it is checked


def checks_of(open_api: Callable[[], LabArchivesApi], notebook: Callable[[], str | None]) -> Sequence[Check]:
    """The checks in their order; `open_api` and `notebook` read the settings, and are asked at each look."""
    looks = _Looks(open_api, notebook)
    return (
        Check("reachable", looks.reachable, needed=True),
        Check("clock", looks.clock),  # before authentication: a wrong clock looks like a wrong key
        Check("authentication", looks.authentication, needed=True),
        Check("notebook", looks.notebook),
        Check("rights", looks.rights),
        Check("upload size", looks.upload_size),
    )


class _Looks:
    """Each says what it found in a few words, or raises what is to be mended."""

    def __init__(self, open_api: Callable[[], LabArchivesApi], notebook: Callable[[], str | None]) -> None:
        self._open_api = open_api
        self._notebook = notebook

    def reachable(self) -> str:
        return f"answers ({self._open_api().knock().status})"

    def clock(self) -> str:
        return describe_clock("LabArchives", self._open_api().knock(), CLOCK_TOLERANCE - CLOCK_MARGIN)

    def authentication(self) -> str:
        return f"acts as {self._open_api().user_info().name or 'a user without a name'}"

    def notebook(self) -> str:
        notebook = self._notebook()
        if notebook is None:
            return "NX_LABARCHIVES_NOTEBOOK_ID is not set: records go to the user's Inbox, as files"
        api = self._open_api()
        count = len(api.get_tree_level(notebook, ROOT))
        name = api.user_info().notebooks.get(notebook)
        found = "is readable, though it is not among the user's notebooks" if name is None else f"{name!r} is readable"
        return f"{found}, {count} at its top"

    def rights(self) -> str:
        notebook = self._notebook()
        if notebook is None:
            return "nothing to look at: the Inbox is the user's own"
        level = self._open_api().get_tree_level(notebook, ROOT)
        top = [node for node in level if node.display_text == TOP_FOLDER and not node.is_page][:1]
        told = [node.can_write for node in top or level if node.can_write is not None]
        where = f"the folder {TOP_FOLDER!r}" if top else "the notebook"
        if not told:
            return "not told by a reading call: the first record will show"
        if any(told):
            return f"the user may write to {where}"
        raise ConfigurationError(
            f"The user may not write to {where}: have its owner give them the right, "
            "or set NX_LABARCHIVES_NOTEBOOK_ID to another notebook."
        )

    def upload_size(self) -> str:
        return f"{self._open_api().max_file_size() / 1e6:,.1f} MB at most"
