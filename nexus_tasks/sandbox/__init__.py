"""Embedded PostgreSQL and Valkey and stand-ins for the three services: for `demo`, `sandbox` and the tests only."""

from nexus_tasks.plain_error import PlainError


class SandboxNotInstalledError(PlainError):
    """A package of the `sandbox` extra is missing; the message says which extra to install."""

    def __init__(self, needed_for: str) -> None:
        super().__init__(f"Install nexus-tasks[sandbox] to run {needed_for}: pip install 'nexus-tasks[sandbox]'.")
