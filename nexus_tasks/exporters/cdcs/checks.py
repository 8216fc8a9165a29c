"""What `nexus-tasks destinations --check` looks at in CDCS, changing nothing; used by `export`."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Check, ConfigurationError
from nexus_tasks.exporters.cdcs.api import CdcsApi, refused_token
from nexus_tasks.exporters.cdcs.schema import Schema
from nexus_tasks.exporters.clock_check import describe_clock
from nexus_tasks.exporters.http_failures import Answer

MOST_SKEW = 60.0  # seconds between CDCS's clock and ours; beyond it, times in its records and in our log mislead people


def checks_of(api: Callable[[], CdcsApi]) -> Sequence[Check]:
    """The checks, in the order in which one builds on the other; `api` is called when the first one is made."""
    settings, looks = get_settings(), _Looks(api)
    checks = [
        Check("reachable", looks.reachable, needed=True),
        Check("authentication", looks.authentication, needed=True),
        Check("template", looks.template),
        Check("schema", looks.schema),
    ]
    if settings.NX_CDCS_ASSIGN_TO_PUBLIC_WORKSPACE:
        checks.append(Check("workspace", looks.workspace))
    if settings.NX_CDCS_USER_OWNED_RECORDS:
        checks.append(Check("ownership", looks.ownership))
    return [*checks, Check("clock", looks.clock)]


class _Looks:
    """The looks of one round of checks."""

    def __init__(self, make_api: Callable[[], CdcsApi]) -> None:
        self._make_api = make_api

    def reachable(self) -> str:
        began = time.monotonic()
        self._first_answer  # noqa: B018 - the call is made here
        return f"answers in {time.monotonic() - began:.2f} s"

    def authentication(self) -> str:
        refused = refused_token(self._first_answer)
        if refused is not None:
            raise refused
        version = self._api.version()
        return "the token is accepted" + (f" by core-main-app {version}" if version else "")

    def template(self) -> str:
        title = get_settings().NX_CDCS_TEMPLATE_TITLE
        return f"{title!r}, current version {self._api.current_template(title)}"

    def schema(self) -> str:
        template = self._api.template(self._api.current_template(get_settings().NX_CDCS_TEMPLATE_TITLE))
        if template.xsd is None:
            return "no XML schema: CDCS alone validates the records"
        defect = Schema(template.xsd).defect
        if defect is not None:
            return f"cannot be compiled here, CDCS alone validates the records ({defect})"
        return f"can be compiled, hash {template.hash[:12]}"

    def workspace(self) -> str:
        title = get_settings().NX_CDCS_WORKSPACE_TITLE
        workspace = self._api.workspace(title)
        number = str(workspace["id"])
        found = f"{title!r}, id {number}"
        if self._api.is_superuser():
            return f"{found}, open to administrators"
        if workspace.get("is_public"):
            return f"{found}; whether the token's user may publish shows when a record is sent"
        if self._api.may_write(number):
            return f"{found}, open for writing"
        raise ConfigurationError(
            f"The token's user may not write to the workspace {title!r}: give it that right in CDCS, or check "
            "NX_CDCS_WORKSPACE_TITLE."
        )

    def ownership(self) -> str:
        self._api.user_named("")  # the list of users is for administrators
        if not self._api.is_superuser():
            raise ConfigurationError(
                "The token's user may give records away, but is no superuser and could not change them afterwards: "
                "make it one in CDCS, or set NX_CDCS_USER_OWNED_RECORDS to no."
            )
        return "the token may give records to their users"

    def clock(self) -> str:
        return describe_clock("CDCS", self._api.ask(), MOST_SKEW)

    @cached_property
    def _api(self) -> CdcsApi:
        return self._make_api()

    @cached_property
    def _first_answer(self) -> Answer:
        return self._api.ask()
