"""The Python environment that CDCS runs in, made once in a cache folder; called by `server`, `demo` and the live tests.

How it is made stands in `package_environment`.
"""

from pathlib import Path

from nexus_tasks.sandbox.package_environment import PackageEnvironment, PackagesNotAvailableError, find_uv, python_of

REQUIREMENTS = Path(__file__).with_name("requirements.lock")
CDCS_PACKAGE = "core-main-app"


class CdcsNotAvailableError(PackagesNotAvailableError):
    """CDCS's packages cannot be had here and now."""


def default_folder() -> Path:
    """Where the environment stands if nobody says otherwise: in the user's cache, by its packages and its Python."""
    return _environment().default_folder()


def is_made(folder: Path | None = None) -> bool:
    """Whether the environment is there already, so that nothing has to be downloaded."""
    return python_of(folder or default_folder()).is_file()


def ensure_environment(folder: Path | None = None) -> Path:
    """The Python that CDCS runs with; its packages are downloaded if that was not done before.

    Raises `CdcsNotAvailableError` when they cannot be had.
    """
    return _environment().ensure(folder or default_folder(), find_uv())


def _environment() -> PackageEnvironment:
    return PackageEnvironment("CDCS", "cdcs", REQUIREMENTS, CDCS_PACKAGE, CdcsNotAvailableError)


__all__ = ["CdcsNotAvailableError", "default_folder", "ensure_environment", "is_made", "python_of"]
