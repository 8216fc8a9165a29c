"""Tells whether a destination has the settings that it cannot do without; called by the destinations."""

from pydantic import SecretStr

from nexus_tasks.config import SettingsError, get_settings
from nexus_tasks.exporters.base import ConfigurationError


def all_set(*names: str) -> bool:
    """Whether every one of the settings has a value."""
    return all(getattr(get_settings(), name) is not None for name in names)


def partly_set(address: str, *others: str) -> bool:
    """Whether the address is set, which is how a destination is chosen, and another setting that it needs is not."""
    return all_set(address) and not all_set(*others)


def check_set(destination: str, *names: str) -> tuple[bool, str | None]:
    """(True, None), or (False, one sentence that names what is missing or wrong)."""
    try:
        settings = get_settings()
    except SettingsError as error:
        return False, str(error)
    missing = [name for name in names if getattr(settings, name) is None]
    if not missing:
        return True, None
    if len(missing) == len(names):
        return False, f"{destination} is not configured: set {_listed(names)}."
    verb = "is" if len(missing) == 1 else "are"
    return False, f"{_listed(missing)} {verb} missing: {destination} needs {_listed(names)}."


def value_of(name: str) -> str:
    """The value of a setting that is needed now, secrets in the clear; raises `ConfigurationError` when it has none."""
    value = getattr(get_settings(), name)
    if value is None:
        raise ConfigurationError(f"{name} is missing: set it where the workers run.")
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
