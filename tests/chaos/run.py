"""Runs one scenario: starts everything, hands records over while it is hurt, waits, audits, stops everything."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nexus_tasks.sandbox.process_error import ProcessError
from nexus_tasks.sandbox.waiting import wait_until
from tests.chaos.audit import audit
from tests.chaos.builder import UNEXPECTED
from tests.chaos.explain import explain
from tests.chaos.findings import count
from tests.chaos.installation import PLUGINS, Installation
from tests.chaos.records import DESTINATIONS, Expected, expected, records
from tests.chaos.rows import read_rows
from tests.chaos.scenario import Havoc, Scenario, nothing
from tests.chaos.supervisor import Supervised
from tests.chaos.watch import Standing, Watch, recovery

SETTLING_DEADLINE_S = 120.0  # after the last fault; a healthy system needs far less
FIRST_RECORD_DEADLINE_S = 60.0
LATE_MARGIN_S = 1.0  # on top of the delay of an object that appears late
REPORT = "findings.txt"
COPIES = "copies"  # the destination of the harness's plugin

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How large the scenarios are: `share` is that of faults and of time, 1 for the whole."""

    records: int
    share: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """One row of the table, and what is behind it."""

    scenario: str
    records: int
    faults: int
    counts: dict[str, int]
    recovery_median_s: float
    recovery_p99_s: float
    seconds: float
    explanation: tuple[str, ...] = ()
    spoiled: tuple[str, ...] = ()  # why the counts prove nothing, or not what the scenario is there to prove
    odd: tuple[str, ...] = ()  # what is known to happen, and worth a remark

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, and the scenario has done its work."""
        return not any(self.counts.values()) and not self.spoiled

    def as_row(self) -> dict[str, str | int | float]:
        """The row as it is published."""
        return {
            "scenario": self.scenario,
            "records": self.records,
            "faults": self.faults,
            **self.counts,
            "recovery_median_s": round(self.recovery_median_s, 2),
            "recovery_p99_s": round(self.recovery_p99_s, 2),
        }


def run(scenario: Scenario, folder: Path, seed: int, size: Size, say: Say) -> Outcome:
    """Run it in `folder`, which goes afterwards unless something is wrong; raises `ProcessError`."""
    begin = time.monotonic()
    random = Random(f"{seed} {scenario.name}")
    wanted = _wanted(scenario, size.records, random)
    installation = Installation(folder, beats=scenario.beats, settings=_settings(scenario, wanted))
    try:
        say("starting")
        installation.start()
        havoc = Havoc(installation, random, scenario.seconds * size.share, size.share)
        with Watch(installation.database_url) as watch:
            spoiled = _strike(scenario, havoc, watch, len(wanted), say)
            settled = watch.wait_settled(len(wanted), SETTLING_DEADLINE_S, _progress(say))
            _wait_for_late_objects(havoc)
        say("auditing" if settled else "gave up waiting, auditing")
        rows, objects = read_rows(installation.database_url), installation.objects()
        spoiled += _unexpected(installation) + _own_exits(installation.beats)
        workers_ended = _own_exits(installation.workers)
    finally:
        installation.stop()
    findings = audit(wanted, objects, rows)
    outcome = Outcome(
        scenario.name,
        len(wanted),
        havoc.faults,
        count(findings),
        *recovery(watch.completed_at, havoc.last_fault),
        seconds=time.monotonic() - begin,
        explanation=tuple(explain(wanted, findings, objects, rows)),
        spoiled=tuple(spoiled if scenario.workers_may_end else spoiled + workers_ended),
        odd=tuple(workers_ended if scenario.workers_may_end else ()),
    )
    if outcome.clean:
        shutil.rmtree(folder)
    else:
        (folder / REPORT).write_text("\n\n".join(outcome.spoiled + outcome.explanation) + "\n", encoding="utf-8")
    return outcome


def _wanted(scenario: Scenario, count_of_records: int, random: Random) -> list[Expected]:
    destinations = frozenset(DESTINATIONS) | ({COPIES} if scenario.poison else set())
    wanted = [expected(record, destinations=destinations) for record in records(count_of_records)]
    if scenario.poison:
        position = random.randrange(len(wanted))
        poisonous = list(records(count_of_records))[position]
        wanted[position] = expected(poisonous, destinations=destinations, doomed=frozenset({COPIES}))
    return wanted


def _settings(scenario: Scenario, wanted: list[Expected]) -> dict[str, str]:
    if not scenario.poison:
        return dict(scenario.settings)
    [poisonous] = [record.session for record in wanted if record.doomed]
    return {**scenario.settings, "NX_PLUGINS_PATH": str(PLUGINS), "CHAOS_POISON": poisonous}


def _strike(scenario: Scenario, havoc: Havoc, watch: Watch, count_of_records: int, say: Say) -> list[str]:
    """Hand over and hurt at the same time, until both are done; says what of it could not be done."""
    installation = havoc.installation
    say("handing over, and hurting")
    seed = havoc.random.randrange(2**32)
    for _ in range(scenario.builders):
        installation.start_builder(records=count_of_records, seconds=havoc.seconds, seed=seed)
    wait_until(watch.has_records, FIRST_RECORD_DEADLINE_S, "the first record to be handed over")
    havoc.begin()
    try:
        scenario.strike(havoc)
        havoc.wait_for_builders()
    except ProcessError as error:
        return [str(error)]
    finally:
        havoc.end_faults()
    harmless = ["nothing was hurt"] if scenario.strike is not nothing and not havoc.faults else []
    return harmless + [
        f"{builder.name} ended with status {builder.returncode}: {builder.log_file}"
        for builder in installation.builders
        if builder.returncode
    ]


def _wait_for_late_objects(havoc: Havoc) -> None:
    moment = havoc.late_until + LATE_MARGIN_S
    wait_until(lambda: time.monotonic() > moment, max(0.0, moment - time.monotonic()) + 1, "objects that come late")


def _progress(say: Say) -> Callable[[Standing], None]:
    def show(standing: Standing) -> None:
        say(f"settling: {standing.unfinished} deliveries due, {standing.open_runs} runs open")

    return show


def _unexpected(installation: Installation) -> list[str]:
    """What builders were told besides `DatabaseError`."""
    told = []
    for builder in installation.builders:
        lines = [line for line in builder.logs().splitlines() if line.startswith(UNEXPECTED)]
        told += sorted({f"{builder.name}, {lines.count(line)} times: {line}" for line in lines})
    return told


def _own_exits(programs: Sequence[Supervised]) -> list[str]:
    """Those that ended although nobody killed them."""
    return [
        f"{each.process.name} ended by itself {each.own_exits} times: {each.process.log_file}"
        for each in programs
        if each.own_exits
    ]
