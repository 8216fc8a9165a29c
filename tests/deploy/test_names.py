"""Every name in the files that is ours exists in the code."""

import re
from pathlib import Path

import pytest

from nexus_tasks.config import Settings
from tests.deploy.files import DEPLOY, DOCKERFILE, IN_IMAGE, ROOT, everything

FILES = everything()


@pytest.mark.parametrize("file", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_setting_that_is_named_exists(file: Path) -> None:
    named = set(re.findall(r"\bNX_[A-Z0-9_]*[A-Z0-9]\b", file.read_text(encoding="utf-8")))
    assert named <= set(Settings.model_fields)


@pytest.mark.parametrize("file", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_path_in_the_image_is_put_there(file: Path) -> None:
    copied = DOCKERFILE.read_text(encoding="utf-8")
    for name in re.findall(rf"{IN_IMAGE}/([\w.-]*\w)", file.read_text(encoding="utf-8")):
        assert f"deploy/{name}" in copied
        assert (DEPLOY / name).is_file()


@pytest.mark.parametrize("file", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_no_file_names_a_queue_that_nobody_fills(file: Path, queues: set[str]) -> None:
    named = set(re.findall(r"\bexport\.[a-z]+\b", file.read_text(encoding="utf-8")))
    assert named <= queues | {"export.folder"}
