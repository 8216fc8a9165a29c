"""Makes Python environments from locked packages, each once, in a cache folder: for programs whose packages differ.

A half-made one is never used: it is made under another name and renamed when it is whole. Two processes that want it at
once wait for each other. Called by `real_cdcs.environment` and the live tests.
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
from dataclasses import dataclass
from pathlib import Path

from nexus_tasks.sandbox.process_error import ProcessError

INSTALL_DEADLINE_S = 900  # for a slow line; usually it takes less than a minute


class PackagesNotAvailableError(ProcessError):
    """The packages of an environment cannot be had here and now."""


@dataclass(frozen=True)
class PackageEnvironment:
    """What is installed: `requirements` is a lock with hashes, in which `package` stands for the whole."""

    name: str  # as messages name it
    short_name: str  # as its folder is called
    requirements: Path
    package: str
    not_available: type[PackagesNotAvailableError] = PackagesNotAvailableError

    def version(self) -> str:
        """The version of the main package that the lock names."""
        for line in self.requirements.read_text(encoding="utf-8").splitlines():
            name, _, version = line.partition("==")
            if name == self.package:
                return version.split()[0]
        raise self.not_available(f"{self.requirements.name} does not name {self.package}: compile it again.")

    def default_folder(self) -> Path:
        """Where it stands if nobody says otherwise: in the user's cache, by its packages and its Python."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        made_of = (self.requirements.read_bytes(), *(part.encode() for part in _this_python()))
        digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:12]
        return cache / "nexus-tasks" / f"{self.short_name}-{self.version()}-{digest}"

    def ensure(self, folder: Path, uv: str | None) -> Path:
        """Its Python; the packages are downloaded (with `uv`, else with pip) if that was not done before.

        Raises `not_available` when they cannot be had.
        """
        if not python_of(folder).is_file():
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with _alone(folder):
                    if not python_of(folder).is_file():  # nobody else has made it meanwhile
                        self._make(folder, uv)
            except OSError as error:
                message = f"{self.name}'s environment cannot be made in {folder}: {error.strerror}."
                raise self.not_available(message) from error
        return python_of(folder)

    def _make(self, folder: Path, uv: str | None) -> None:
        partial = folder.with_name(f"{folder.name}.partial")
        for left_over in (partial, folder):  # by somebody who was killed; or the Python it was made of is gone
            shutil.rmtree(left_over, ignore_errors=True)
        log_file = folder.with_name(f"{folder.name}.log")
        with log_file.open("wb") as log:
            for command in (
                [sys.executable, "-m", "venv", *(["--without-pip"] if uv else []), str(partial)],
                self._install_with_uv(uv, partial) if uv else self._install_with_pip(partial),
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
                    raise self.not_available(
                        f"The packages of {self.name} cannot be installed: check the network and pip's settings, and "
                        f"try again. What the installer says is in {log_file}"
                    ) from error
        partial.rename(folder)

    def _install_with_uv(self, uv: str, environment: Path) -> list[str]:
        where = ["--python", str(python_of(environment))]
        return [uv, "pip", "install", "--quiet", *where, "--require-hashes", "--requirements", str(self.requirements)]

    def _install_with_pip(self, environment: Path) -> list[str]:
        pip = [str(python_of(environment)), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        return [*pip, "install", "--require-hashes", "--requirement", str(self.requirements)]


def python_of(folder: Path) -> Path:
    """The interpreter of the environment in `folder`."""
    return folder / "bin" / "python"


def find_uv() -> str | None:
    """The faster installer, where there is one: beside our own Python or on the PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _this_python() -> tuple[str, ...]:
    return sys.version, sys.base_prefix, platform.machine()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time; the lock goes with the process that holds it, however that ends."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
