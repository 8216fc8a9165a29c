"""All three strategies, with each destination failing in turn: what the rows say at the end.

The shared worker makes two tries in a run and gives a delivery up after two failed runs. CDCS is asked first, then
LabArchives, then eLabFTW; both notebooks come after CDCS.
"""

from dataclasses import dataclass

import pytest

from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.states import Strategy
from tests.acceptance.conftest import MAX_FAILURES
from tests.acceptance.installation import Delivered, Installation, new_session

TRIES = 2

# What each service says to a record that it will never take.
PERMANENT = {
    "cdcs": Fault(
        FaultKind.STATUS, status=500, body='{"message": "XML is not valid"}', method="POST", path="^/rest/data/$"
    ),
    "elabftw": Fault(
        FaultKind.STATUS,
        status=400,
        body='{"code": 400, "message": "Bad Request", "description": "Incorrect title"}',
        method="POST",
        path="/experiments$",
    ),
    "labarchives": Fault(
        FaultKind.STATUS,
        status=413,
        body="<error><error-code>4521</error-code><error-description>File too big</error-description></error>",
        path="/entries/add_entry$",
    ),
}
# What a service says that has certainly done nothing: it may be asked again at once.
BUSY = 429
# What may be said after the object was made: it is looked for before it is made again.
BROKEN = 503
CREATING = {"cdcs": "^/rest/data/$", "elabftw": "/experiments$", "labarchives": "/entries/add_entry$"}


def refusing(*destinations: str) -> dict[str, Fault]:
    """They refuse the record for good."""
    return {name: PERMANENT[name] for name in destinations}


def busy_once(*destinations: str) -> dict[str, Fault]:
    """Their first call fails: the second try of the same run gets through."""
    return {name: Fault(FaultKind.STATUS, status=BUSY, times=1) for name in destinations}


def busy_for_a_run(*destinations: str) -> dict[str, Fault]:
    """Busy for all tries of a run: only the next run gets through."""
    return {name: Fault(FaultKind.STATUS, status=BUSY, times=TRIES) for name in destinations}


def always_busy(*destinations: str) -> dict[str, Fault]:
    """Busy until the deliveries are given up."""
    return {name: Fault(FaultKind.STATUS, status=BUSY) for name in destinations}


def breaking_once(*destinations: str) -> dict[str, Fault]:
    """Nobody knows whether the creating call did anything, until it can be looked up: in the next run."""
    return {
        name: Fault(FaultKind.STATUS, status=BROKEN, method="POST", path=CREATING[name], times=1)
        for name in destinations
    }


def late_answer(*destinations: str) -> dict[str, Fault]:
    """As `breaking_once`, but the object was made: the next try finds it, and makes no second one."""
    return {
        name: Fault(FaultKind.STATUS_AFTER, status=BROKEN, method="POST", path=CREATING[name], times=1)
        for name in destinations
    }


ALL_THREE = ("cdcs", "elabftw", "labarchives")
YES, NO, OFF = "succeeded", "failed", "skipped"
DONE, LEFT = "COMPLETED", "BUILT_NOT_EXPORTED"


@dataclass(frozen=True)
class Row:
    """One line of the table: what goes wrong, and what stands in the database at the end."""

    strategy: Strategy
    what: str
    faults: dict[str, Fault]
    runs: int  # numbered from 1, all closed
    cdcs: str  # the state of each delivery
    labarchives: str
    elabftw: str
    status: str
    log: str  # a letter for each row of the upload log: C, L and E, lower case if the attempt failed


# fmt: off
A, F, B = Strategy.ALL, Strategy.FIRST_SUCCESS, Strategy.BEST_EFFORT
TABLE = [
    #   what goes wrong                                                        runs C    L    E    status log
    # all: every destination must hold the record; one failure does not keep the others from it. When CDCS comes late,
    # the notebooks get its link in one more run.
    Row(A, "nothing fails",               {},                                     1, YES, YES, YES, DONE, "CLE"),
    Row(A, "cdcs refuses",                refusing("cdcs"),                       1, NO,  YES, YES, LEFT, "cLE"),
    Row(A, "labarchives refuses",         refusing("labarchives"),                1, YES, NO,  YES, LEFT, "ClE"),
    Row(A, "elabftw refuses",             refusing("elabftw"),                    1, YES, YES, NO,  LEFT, "CLe"),
    Row(A, "cdcs busy once",              busy_once("cdcs"),                      1, YES, YES, YES, DONE, "CLE"),
    Row(A, "labarchives busy once",       busy_once("labarchives"),               1, YES, YES, YES, DONE, "CLE"),
    Row(A, "elabftw busy once",           busy_once("elabftw"),                   1, YES, YES, YES, DONE, "CLE"),
    Row(A, "cdcs busy for a run",         busy_for_a_run("cdcs"),                 3, YES, YES, YES, DONE, "cLECLE"),
    Row(A, "labarchives busy for a run",  busy_for_a_run("labarchives"),          2, YES, YES, YES, DONE, "ClEL"),
    Row(A, "elabftw busy for a run",      busy_for_a_run("elabftw"),              2, YES, YES, YES, DONE, "CLeE"),
    Row(A, "cdcs stays busy",             always_busy("cdcs"),                    2, NO,  YES, YES, LEFT, "cLEc"),
    Row(A, "labarchives stays busy",      always_busy("labarchives"),             2, YES, NO,  YES, LEFT, "ClEl"),
    Row(A, "elabftw stays busy",          always_busy("elabftw"),                 2, YES, YES, NO,  LEFT, "CLee"),
    Row(A, "cdcs breaks once",            breaking_once("cdcs"),                  3, YES, YES, YES, DONE, "cLECLE"),
    Row(A, "labarchives breaks once",     breaking_once("labarchives"),           2, YES, YES, YES, DONE, "ClEL"),
    Row(A, "elabftw breaks once",         breaking_once("elabftw"),               2, YES, YES, YES, DONE, "CLeE"),
    Row(A, "cdcs answers too late",       late_answer("cdcs"),                    1, YES, YES, YES, DONE, "CLE"),
    Row(A, "all refuse",                  refusing(*ALL_THREE),                   1, NO,  NO,  NO,  LEFT, "cle"),
    # first_success: one destination a run, by priority; the first that takes the record ends it
    Row(F, "nothing fails",               {},                                     1, YES, OFF, OFF, DONE, "C"),
    Row(F, "cdcs refuses",                refusing("cdcs"),                       2, NO,  YES, OFF, DONE, "cL"),
    Row(F, "labarchives refuses",         refusing("labarchives"),                1, YES, OFF, OFF, DONE, "C"),
    Row(F, "elabftw refuses",             refusing("elabftw"),                    1, YES, OFF, OFF, DONE, "C"),
    Row(F, "cdcs and labarchives refuse", refusing("cdcs", "labarchives"),        3, NO,  NO,  YES, DONE, "clE"),
    Row(F, "cdcs busy once",              busy_once("cdcs"),                      1, YES, OFF, OFF, DONE, "C"),
    Row(F, "labarchives busy once",       busy_once("labarchives"),               1, YES, OFF, OFF, DONE, "C"),
    Row(F, "elabftw busy once",           busy_once("elabftw"),                   1, YES, OFF, OFF, DONE, "C"),
    Row(F, "cdcs busy for a run",         busy_for_a_run("cdcs"),                 2, OFF, YES, OFF, DONE, "cL"),
    Row(F, "labarchives busy for a run",  busy_for_a_run("labarchives"),          1, YES, OFF, OFF, DONE, "C"),
    Row(F, "elabftw busy for a run",      busy_for_a_run("elabftw"),              1, YES, OFF, OFF, DONE, "C"),
    Row(F, "cdcs, labarchives for a run", busy_for_a_run("cdcs", "labarchives"),  3, OFF, OFF, YES, DONE, "clE"),
    # an object that may be there is looked up before the next destination is asked
    Row(F, "cdcs breaks once",            breaking_once("cdcs"),                  2, YES, OFF, OFF, DONE, "cC"),
    Row(F, "cdcs answers too late",       late_answer("cdcs"),                    1, YES, OFF, OFF, DONE, "C"),
    Row(F, "all refuse",                  refusing(*ALL_THREE),                   3, NO,  NO,  NO,  LEFT, "cle"),
    Row(F, "all stay busy",               always_busy(*ALL_THREE),                6, NO,  NO,  NO,  LEFT, "clecle"),
    # best_effort: one is enough, and the others are tried all the same, as often as under `all`
    Row(B, "nothing fails",               {},                                     1, YES, YES, YES, DONE, "CLE"),
    Row(B, "cdcs refuses",                refusing("cdcs"),                       1, NO,  YES, YES, DONE, "cLE"),
    Row(B, "labarchives refuses",         refusing("labarchives"),                1, YES, NO,  YES, DONE, "ClE"),
    Row(B, "elabftw refuses",             refusing("elabftw"),                    1, YES, YES, NO,  DONE, "CLe"),
    Row(B, "cdcs busy once",              busy_once("cdcs"),                      1, YES, YES, YES, DONE, "CLE"),
    Row(B, "labarchives busy once",       busy_once("labarchives"),               1, YES, YES, YES, DONE, "CLE"),
    Row(B, "elabftw busy once",           busy_once("elabftw"),                   1, YES, YES, YES, DONE, "CLE"),
    Row(B, "cdcs busy for a run",         busy_for_a_run("cdcs"),                 3, YES, YES, YES, DONE, "cLECLE"),
    Row(B, "labarchives busy for a run",  busy_for_a_run("labarchives"),          2, YES, YES, YES, DONE, "ClEL"),
    Row(B, "elabftw busy for a run",      busy_for_a_run("elabftw"),              2, YES, YES, YES, DONE, "CLeE"),
    Row(B, "cdcs stays busy",             always_busy("cdcs"),                    2, NO,  YES, YES, DONE, "cLEc"),
    Row(B, "two refuse",                  refusing("cdcs", "elabftw"),            1, NO,  YES, NO,  DONE, "cLe"),
    Row(B, "all refuse",                  refusing(*ALL_THREE),                   1, NO,  NO,  NO,  LEFT, "cle"),
]
# fmt: on
DESTINATIONS = {"C": "cdcs", "L": "labarchives", "E": "elabftw"}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.strategy}: {row.what}")
def test_the_rows_say_what_the_strategy_makes_of_it(installation: Installation, row: Row) -> None:
    session = new_session()
    for name, fault in row.faults.items():
        getattr(installation.stand_ins, name).faults.replace([fault])

    installation.hand_over(session, strategy=row.strategy)
    installation.wait_until_settled(session)

    states = {"cdcs": row.cdcs, "labarchives": row.labarchives, "elabftw": row.elabftw}
    assert installation.delivered(session) == Delivered(
        runs=[(number, "closed") for number in range(1, row.runs + 1)],
        deliveries=states,
        status=row.status,
        log=sorted((DESTINATIONS[letter.upper()], int(letter.isupper())) for letter in row.log),
    )
    assert held(installation) == {name: int(states[name] == YES) for name in ALL_THREE}


@pytest.mark.parametrize("strategy", [Strategy.ALL, Strategy.BEST_EFFORT])
def test_when_all_stay_busy_each_is_given_up_after_its_failed_runs(
    installation: Installation, strategy: Strategy
) -> None:
    """In how many runs depends on when each becomes due again: LabArchives must not be asked within a second."""
    session = new_session()
    for name, fault in always_busy(*ALL_THREE).items():
        getattr(installation.stand_ins, name).faults.replace([fault])

    installation.hand_over(session, strategy=strategy)
    installation.wait_until_settled(session)

    after = installation.delivered(session)
    assert after.deliveries == dict.fromkeys(ALL_THREE, NO)
    assert after.status == LEFT
    assert after.log == [(name, 0) for name in ALL_THREE for _ in range(MAX_FAILURES)]
    assert {state for _, state in after.runs} == {"closed"}
    assert held(installation) == dict.fromkeys(ALL_THREE, 0)


def held(installation: Installation) -> dict[str, int]:
    """How many records, experiments and summaries the stand-ins hold."""
    stand_ins = installation.stand_ins
    return {
        "cdcs": len(stand_ins.cdcs.objects()),
        "elabftw": len(stand_ins.elabftw.objects()),
        "labarchives": sum(found.get("part_type") == "text entry" for found in stand_ins.labarchives.objects()),
    }
