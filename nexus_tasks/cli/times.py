"""Times as people write them: on the command line and in files of sessions."""

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nexus_tasks.cli.output import CommandError


def zone(name: str) -> ZoneInfo:
    """The time zone of that IANA name. Raises `CommandError`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise CommandError(f"There is no time zone {name}: use an IANA name such as Europe/Berlin.") from error


def moment(text: str, zone: ZoneInfo) -> datetime:
    """A time from the command line: ISO 8601, in `zone` if it names none. Raises `CommandError`."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{text!r} is not a time: write it like 2026-01-31T14:30:00+01:00.") from error
    if parsed.tzinfo is not None:
        return parsed
    local = parsed.replace(tzinfo=zone)
    if local.utcoffset() != local.replace(fold=1).utcoffset():  # the clocks were changed
        raise CommandError(f"{text!r} comes twice or never in {zone.key}: write it with its offset, like +01:00.")
    return local
