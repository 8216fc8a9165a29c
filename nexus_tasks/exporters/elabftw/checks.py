"""What `nexus-tasks destinations --check` looks at in eLabFTW, changing nothing; used by `export`."""

from collections.abc import Sequence
from functools import partial

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Check, ConfigurationError
from nexus_tasks.exporters.clock_check import describe_clock
from nexus_tasks.exporters.elabftw.api import ELabFTWApi, release_of

MOST_SKEW = 60.0  # seconds between eLabFTW's clock and ours; more than that is a clock that nobody sets
MOST_NAMED = 8  # categories or status that a message names


def checks_of(api: ELabFTWApi) -> Sequence[Check]:
    """The checks, in the order in which one builds on the other."""
    settings = get_settings()
    checks = [
        Check("reachable", partial(_look_at_release, api), needed=True),
        Check("authentication", partial(_look_at_user, api), needed=True),
    ]
    for name, kind, number in (
        ("category", "experiments_categories", settings.NX_ELABFTW_EXPERIMENT_CATEGORY),
        ("status", "experiments_status", settings.NX_ELABFTW_EXPERIMENT_STATUS),
    ):
        if number is not None:
            checks.append(Check(name, partial(_look_for, api, name, kind, number)))
    return [
        *checks,
        Check("rights", partial(_look_at_rights, api)),
        Check("clock", lambda: describe_clock("eLabFTW", api.info(), MOST_SKEW)),
    ]


def _look_at_release(api: ELabFTWApi) -> str:
    release = release_of(api.info())
    return f"release {release}" if release else "it answers; its release it tells only with the right key"


def _look_at_user(api: ELabFTWApi) -> str:
    user = api.user()
    return f"as {user.name}, team {user.team}" if user.team else f"as {user.name}"


def _look_for(api: ELabFTWApi, name: str, kind: str, number: int) -> str:
    titles = api.titles(kind)
    if number in titles:
        return f"{number} ({titles[number]})"
    known = ", ".join(f"{each} ({title})" for each, title in list(titles.items())[:MOST_NAMED]) or "none"
    more = ", and others" if len(titles) > MOST_NAMED else ""
    raise ConfigurationError(
        f"The team has no experiment {name} {number}; it has {known}{more}. "
        f"Set NX_ELABFTW_EXPERIMENT_{name.upper()} to one of these, or to nothing."
    )


def _look_at_rights(api: ELabFTWApi) -> str:
    may_write = api.may_write()
    if may_write is None:
        return "it does not tell whether the key may write"
    if not may_write:
        raise ConfigurationError(
            "The key may only read: make one that may write in eLabFTW, and set NX_ELABFTW_API_KEY to it."
        )
    return "the key may write"
