"""Looks at a destination without changing anything there: `nexus-tasks destinations --check` shows what it finds."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nexus_tasks.exporters.base import Check, ExportDestination, ExportError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """What one check came to; `ok` is None for one that was not made, because an earlier one failed."""

    name: str
    ok: bool | None
    message: str


def check_up(destination: ExportDestination) -> Iterator[Finding]:
    """First the settings, then what the destination's own `checks()` say; whatever goes wrong becomes a finding."""
    valid, problem = check_settings(destination)
    yield Finding("settings", valid, "complete" if valid else problem or "they are not valid, it does not say why")
    if not valid:
        return
    try:
        checks: Sequence[Check] = tuple(destination.checks()) if hasattr(destination, "checks") else ()
    except Exception as error:  # noqa: BLE001 - one plugin's mistake must not stop the others
        yield Finding("checks", ok=False, message=_told(destination, error))
        return
    failed: str | None = None
    for check in checks:
        if failed is not None:
            yield Finding(check.name, None, f"not looked at: {failed} comes first")
            continue
        try:
            yield Finding(check.name, ok=True, message=check.look())
        except Exception as error:  # noqa: BLE001 - likewise
            yield Finding(check.name, ok=False, message=_told(destination, error))
            if check.needed:
                failed = check.name


def check_settings(destination: ExportDestination) -> tuple[bool, str | None]:
    """What `validate_config()` says; a plugin that fails to say it has settings that are not valid."""
    try:
        valid, problem = destination.validate_config()
    except Exception as error:  # noqa: BLE001 - likewise
        return False, _told(destination, error)
    return valid, problem


def _told(destination: ExportDestination, error: Exception) -> str:
    """What an operator is told; what is not an `ExportError` is a defect of the plugin, and may quote anything."""
    if isinstance(error, ExportError):
        return str(error)
    logger.debug("A check of %s failed", destination.name, exc_info=error)
    return f"The plugin {destination.name} failed ({type(error).__name__}): tell its author."
