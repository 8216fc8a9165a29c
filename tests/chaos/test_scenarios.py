import json
from collections import Counter
from random import Random

import pytest

from nexus_tasks.config import Settings
from nexus_tasks.sandbox.services.faults import FaultInjector
from tests.chaos.destinations import FAULTY_SHARE, ONE_FAULT, mixed_faults
from tests.chaos.findings import Kind
from tests.chaos.run import Outcome
from tests.chaos.scenarios import QUICK, SCENARIOS, named
from tests.chaos.settings import SHORT_SETTINGS
from tests.chaos.table import document

CALLS = 20_000


def outcome(**counts: int) -> Outcome:
    return Outcome("calm", 300, 7, {kind.value: 0 for kind in Kind} | counts, 1.234, 5.678, seconds=40)


def test_a_row_has_exactly_the_published_keys() -> None:
    [row] = json.loads(document([outcome(lost=2)]))
    assert row == {
        "scenario": "calm",
        "records": 300,
        "faults": 7,
        "lost": 2,
        "doubled": 0,
        "wrong_attachments": 0,
        "extra_log_rows": 0,
        "stuck": 0,
        "recovery_median_s": 1.23,
        "recovery_p99_s": 5.68,
    }
    assert list(row)[-2:] == ["recovery_median_s", "recovery_p99_s"]


@pytest.mark.parametrize("kind", [kind.value for kind in Kind])
def test_an_outcome_is_clean_only_when_every_count_is_zero(kind: str) -> None:
    assert outcome().clean
    assert not outcome(**{kind: 1}).clean


def test_every_scenario_has_a_name_of_its_own_and_calm_is_the_first() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert names[0] == "calm"
    assert [scenario.name for scenario in named(list(QUICK))] == list(QUICK)


def test_every_kind_of_fault_gets_the_same_share_of_the_calls() -> None:
    injector = FaultInjector(mixed_faults(Random(1)))
    chosen = [injector.choose("POST", "/rest/data/").fault for _ in range(CALLS)]
    found = Counter((fault.kind, fault.status) for fault in chosen if fault is not None)
    assert len(found) == len(ONE_FAULT)
    assert found.total() / CALLS == pytest.approx(FAULTY_SHARE, abs=0.02)
    assert min(found.values()) > 0.7 * max(found.values())


def test_the_settings_are_known_to_the_program() -> None:
    unknown = sorted(SHORT_SETTINGS.keys() - Settings.model_fields.keys())
    assert not unknown, f"these have no effect: {unknown}"
