"""Waits for sessions while showing them: `build --wait`, `enqueue --wait`, `status --watch` and `demo` use it."""

import time
from collections.abc import Callable, Sequence
from typing import Self

from nexus_tasks.cli.output import errors, sessions_table
from nexus_tasks.deployment import Deployment
from nexus_tasks.monitoring.status import SessionView, view

POLL_S = 0.5


def watch(
    deployment: Deployment,
    identifiers: Sequence[str] | None,
    *,
    until: Callable[[Sequence[SessionView]], bool],
    live: bool,
) -> list[SessionView]:
    """Poll the rows until `until` holds; with `live`, keep a table on standard error up to date meanwhile."""
    from rich.live import Live

    with Live(console=errors, transient=True, auto_refresh=False) if live else _Quiet() as display:
        while True:
            views = view(deployment.engine, deployment.settings, identifiers)
            display.update(sessions_table(views), refresh=True)
            if until(views):
                return views
            time.sleep(POLL_S)


def at_rest(views: Sequence[SessionView]) -> bool:
    """Whether nothing is going on any more that does not need time or help."""
    return not any(view.moving for view in views)


class _Quiet:
    """A display that shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, *_: object, **__: object) -> None:
        return None
