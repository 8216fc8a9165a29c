from collections.abc import Callable

import pytest

from nexus_tasks.exporters.base import ConfigurationError
from nexus_tasks.exporters.required_settings import all_set, check_set, partly_set, value_of

NAMES = ("NX_CDCS_URL", "NX_CDCS_TOKEN")


def test_nothing_set_says_what_to_set(configure: Callable[..., None]) -> None:
    assert not all_set(*NAMES)
    assert not partly_set(*NAMES)
    assert check_set("CDCS", *NAMES) == (False, "CDCS is not configured: set NX_CDCS_URL and NX_CDCS_TOKEN.")


def test_half_of_it_names_the_other_half(configure: Callable[..., None]) -> None:
    configure(NX_CDCS_URL="https://cdcs.example.org", NX_CDCS_TOKEN=" ")
    assert not all_set(*NAMES)
    assert partly_set(*NAMES)
    assert check_set("CDCS", *NAMES) == (
        False,
        "NX_CDCS_TOKEN is missing: CDCS needs NX_CDCS_URL and NX_CDCS_TOKEN.",
    )
    with pytest.raises(ConfigurationError, match="NX_CDCS_TOKEN is missing"):
        value_of("NX_CDCS_TOKEN")


def test_all_of_it_is_enough(configure: Callable[..., None]) -> None:
    configure(NX_CDCS_URL="https://cdcs.example.org", NX_CDCS_TOKEN="t")
    assert all_set(*NAMES)
    assert not partly_set(*NAMES)
    assert check_set("CDCS", *NAMES) == (True, None)
    assert value_of("NX_CDCS_TOKEN") == "t"


def test_a_setting_that_cannot_be_read_is_said(configure: Callable[..., None]) -> None:
    configure(NX_CDCS_URL="nonsense", NX_CDCS_TOKEN="t")
    valid, problem = check_set("CDCS", *NAMES)
    assert not valid
    assert problem is not None
    assert problem.startswith("NX_CDCS_URL must be a web address")
