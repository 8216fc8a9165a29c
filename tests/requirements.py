"""The rule for what a test needs and a machine may lack.

Such a test is skipped and listed with its reason. Where nothing may be missing (continuous integration), the variable
`NX_TEST_REQUIRE=all` makes it fail instead. What the project's own files cannot install is only `wanted`: a test that
needs it is skipped everywhere else. Tests marked `thorough` take half a minute or more and run where all is required.
"""

import importlib.util
import os
import shutil

import pytest

REQUIRE_VARIABLE = "NX_TEST_REQUIRE"


def require(condition: object, reason: str) -> None:
    """Go on only if `condition` holds; otherwise the test is skipped, or fails where everything is required."""
    if condition:
        return
    if everything_is_required():
        pytest.fail(f"{reason} ({REQUIRE_VARIABLE}=all)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def everything_is_required() -> bool:
    """Whether nothing may be left out in this run."""
    return os.environ.get(REQUIRE_VARIABLE) == "all"


def wanted(condition: object, reason: str) -> None:
    """Go on only if `condition` holds: about what the project's own files cannot install."""
    if not condition:
        pytest.skip(reason, allow_module_level=True)


def require_program(name: str) -> str:
    """The path of a program that the test runs."""
    path = shutil.which(name)
    require(path, f"the program {name} is not installed")
    return str(path)


def require_module(name: str, install: str) -> None:
    """A module that the test uses; `install` is what to install for it."""
    require(importlib.util.find_spec(name) is not None, f"the module {name} is missing: install {install}")
