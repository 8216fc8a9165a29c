"""Makes the Python environment that CDCS runs in, once, in a cache folder; called by `server` and the live tests.

A half-made one is never used: it is made under another name and renamed when it is whole. Two processes that want it at
once wait for each other.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nexus_tasks.sandbox.processes import ProcessError

REQUIREMENTS = Path(__file__).with_name("requirements.lock")
CDCS_PACKAGE = "core-main-app"
INSTALL_DEADLINE_S = 900  # for a slow line; usually it takes less than a minute


class CdcsNotAvailableError(ProcessError):
    """CDCS's packages cannot be had here and now."""


def cdcs_version() -> str:
    """The version of CDCS's main package that the lock names."""
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name == CDCS_PACKAGE:
            return version.split()[0]
    raise CdcsNotAvailableError(f"{REQUIREMENTS.name} does not name {CDCS_PACKAGE}: compile it again.")


def default_folder() -> Path:
    """Where the environment stands if nobody says otherwise: in the user's cache, by its packages and its Python."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made_of = (REQUIREMENTS.read_bytes(), sys.version.encode(), sys.base_prefix.encode(), platform.machine().encode())
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:12]
    return cache / "nexus-tasks" / f"cdcs-{cdcs_version()}-{digest}"


def is_made(folder: Path | None = None) -> bool:
    """Whether the environment is there already, so that nothing has to be downloaded."""
    return python_of(folder or default_folder()).is_file()


def python_of(folder: Path) -> Path:
    """The environment's interpreter."""
    return folder / "bin" / "python"


def ensure_environment(folder: Path | None = None) -> Path:
    """The Python that CDCS runs with; its packages are downloaded if that was not done before.

    Raises `CdcsNotAvailableError` when they cannot be had.
    """
    folder = folder or default_folder()
    if not is_made(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                if not is_made(folder):  # nobody else has made it meanwhile
                    _make(folder)
        except OSError as error:
            raise CdcsNotAvailableError(f"CDCS's environment cannot be made in {folder}: {error.strerror}.") from error
    return python_of(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time; the lock goes with the process that holds it, however that ends."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    for left_over in (partial, folder):  # by somebody who was killed; or the Python it was made of is gone
        shutil.rmtree(left_over, ignore_errors=True)
    log_file = folder.with_name(f"{folder.name}.log")
    uv = _uv()
    with log_file.open("wb") as log:
        for command in (
            [sys.executable, "-m", "venv", *(["--without-pip"] if uv else []), str(partial)],
            _install_with_uv(uv, partial) if uv else _install_with_pip(partial),
        ):
            try:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=INSTALL_DEADLINE_S,
                    check=True,
                )
            except subprocess.SubprocessError as error:
                shutil.rmtree(partial, ignore_errors=True)
                # what the installer says is not repeated: the address of a package index may hold a password
                raise CdcsNotAvailableError(
                    "The packages of CDCS cannot be installed: check the network and pip's settings, and try again. "
                    f"What the installer says is in {log_file}"
                ) from error
    partial.rename(folder)


def _uv() -> str | None:
    """The faster installer, where there is one: beside our own Python or on the PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _install_with_uv(uv: str, environment: Path) -> list[str]:
    where = ["--python", str(python_of(environment))]
    return [uv, "pip", "install", "--quiet", *where, "--require-hashes", "--requirements", str(REQUIREMENTS)]


def _install_with_pip(environment: Path) -> list[str]:
    pip = [str(python_of(environment)), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    return [*pip, "install", "--require-hashes", "--requirement", str(REQUIREMENTS)]
