import subprocess
import sys
from pathlib import Path

import pytest

from nexus_tasks.sandbox.real_cdcs import environment
from nexus_tasks.sandbox.real_cdcs.environment import CdcsNotAvailableError, ensure_environment, is_made, python_of
from tests.live.conftest import require_cdcs

MAKE = (
    "import sys; from pathlib import Path; from nexus_tasks.sandbox.real_cdcs import environment; "
    "print(environment.ensure_environment(Path(sys.argv[1])))"
)


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither installer gets anything."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_without_packages_it_says_what_to_do_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_packages: None, installer: str
) -> None:
    if installer == "pip":
        monkeypatch.setattr(environment, "find_uv", lambda: None)
    folder = tmp_path / "cdcs"
    with pytest.raises(CdcsNotAvailableError, match="check the network") as raised:
        ensure_environment(folder)
    assert len(str(raised.value).splitlines()) == 1
    log_file = folder.with_name("cdcs.log")
    assert str(log_file) in str(raised.value)
    assert log_file.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert not is_made(folder)


def test_a_half_made_one_is_made_anew_and_two_at_once_get_the_same_one(tmp_path: Path) -> None:
    require_cdcs()  # so that the packages can be had
    folder = tmp_path / "cdcs"
    for left_over in (folder, folder.with_name("cdcs.partial")):
        (left_over / "lib").mkdir(parents=True)
    both = [
        subprocess.Popen([sys.executable, "-c", MAKE, str(folder)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in both]

    assert said == [str(python_of(folder))] * 2
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["cdcs"]
    command = [str(python_of(folder)), "-c", "import core_main_app, gunicorn"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


def test_another_set_of_packages_or_another_python_gets_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    usual = environment.default_folder()
    assert usual.parent == tmp_path / "nexus-tasks"
    assert usual.name.startswith("cdcs-2.23.0-")
    monkeypatch.setattr(sys, "base_prefix", "/somewhere/else")
    elsewhere = environment.default_folder()
    requirements = tmp_path / "requirements.lock"
    requirements.write_text("core-main-app==2.23.0 \\\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", requirements)
    assert len({usual, elsewhere, environment.default_folder()}) == 3
