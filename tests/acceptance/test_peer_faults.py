"""Every fault that the program in use today was measured with, and what has to become of the records instead.

One test or more for each. The last fault, two builders at once, is `test_two_builders_at_once_share_twenty_sessions` in
`test_end_to_end`; `test_repeated_exports` has more of second exports.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import quote, quote_plus

import pytest

from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.delivery.export_records import RecordToExport, export_records
from nexus_tasks.sandbox.process_error import ProcessError
from nexus_tasks.sandbox.services.cdcs.objects import PUBLIC_WORKSPACE
from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.services.server import StandInServer
from nexus_tasks.sandbox.services.standins import LABARCHIVES_ACCOUNT
from nexus_tasks.sandbox.waiting import wait_until
from nexus_tasks.states import SessionStatus, Strategy
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import END, INSTRUMENT, START, Installation, new_session, record_xml
from tests.acceptance.test_repeated_exports import calls, copies, once, writing_calls
from tests.acceptance.test_strategies import refusing

Trouble = Callable[[Installation, str], AbstractContextManager[None]]

ALL_THREE = ["cdcs", "elabftw", "labarchives"]
NO_RIGHT = '{"message": "The user doesn\'t have enough rights to publish."}'
CALL_DEADLINE = 1.0  # seconds
PATIENT = {
    "NX_CALL_DEADLINE": f"{CALL_DEADLINE:g}",
    "NX_LEASE_MARGIN": "1",
    "NX_RETRY_DELAYS": "1",
    "NX_RUN_PATIENCE": "3",
}
SOON = 30.0  # seconds in which something must have happened, on a busy machine too


@pytest.fixture(scope="module")
def patient_installation(make_installation: InstallationMaker) -> Installation:
    """Unlike the shared one it gives nothing up, and sees within seconds that a worker has died."""
    installation = make_installation(PATIENT)
    installation.start_worker()
    installation.start_beat()
    return installation


@pytest.fixture
def patient(patient_installation: Installation) -> Iterator[Installation]:
    patient_installation.stand_ins.reset()
    with patient_installation.entered():
        yield patient_installation


def stand_in(installation: Installation, name: str) -> StandInServer:
    found: StandInServer = getattr(installation.stand_ins, name)
    return found


def fail(installation: Installation, name: str, *faults: Fault) -> None:
    stand_in(installation, name).faults.replace(faults)


def applied(installation: Installation, name: str) -> int:
    """How many calls got a fault."""
    return sum(int(fault["applied"]) for fault in stand_in(installation, name).faults.as_json())


def succeeded(installation: Installation, *names: str) -> list[tuple[str, int]]:
    """The upload log of a session of which every delivery succeeded the first time."""
    return [(name, 1) for name in sorted(names or ALL_THREE)]


@contextmanager
def unreachable(installation: Installation, name: str) -> Iterator[None]:
    """Nobody listens there."""
    server = stand_in(installation, name)
    server.stop()
    try:
        yield
    finally:
        server.start()


def wait_for_states(installation: Installation, session: str, states: dict[str, str]) -> None:
    wait_until(
        lambda: states.items() <= installation.delivered(session).deliveries.items(), SOON, f"{session} to be {states}"
    )


def wait_for_failure(installation: Installation, session: str, destination: str) -> None:
    """Until a failed attempt stands in the upload log."""
    try:
        wait_until(lambda: (destination, 0) in installation.delivered(session).log, SOON, "a failed attempt")
    except ProcessError as error:
        raise AssertionError(f"{error}\n{installation.history(session)}") from None


def reason(installation: Installation, session: str, destination: str) -> str:
    """Why a delivery has not arrived yet."""
    told: list[str] = []

    def is_told() -> bool:
        why = installation.why_not_done(session, destination)
        told.extend([why] if why else [])
        return bool(told)

    wait_until(is_told, SOON, f"a reason why {destination} does not have {session}")
    return told[-1]


# --- CDCS answers 503


def test_cdcs_answers_503_the_notebooks_go_on_and_the_records_arrive_when_it_is_back(patient: Installation) -> None:
    identifiers = [new_session() for _ in range(3)]
    fail(patient, "cdcs", Fault(FaultKind.STATUS, status=503))

    for session in identifiers:
        patient.hand_over(session)
    for session in identifiers:
        wait_for_states(patient, session, {"elabftw": "succeeded", "labarchives": "succeeded"})
        assert "503" in reason(patient, session, "cdcs")
        assert patient.status(session) == "BUILT_NOT_EXPORTED"
    fail(patient, "cdcs")
    patient.wait_until_settled(*identifiers)

    for session in identifiers:
        assert patient.status(session) == "COMPLETED"
        assert copies(patient.stand_ins, session) == once(record_xml(session))
    # the link came late, to the same experiment
    links = [found["body"].count("View in CDCS") for found in patient.stand_ins.elabftw.objects(content=True)]
    assert links == [1, 1, 1]


# --- CDCS answers 429


def test_cdcs_answers_429_and_is_asked_again_when_it_said(installation: Installation) -> None:
    session, wait = new_session(), 1.5
    fault = Fault(FaultKind.STATUS, status=429, retry_after=2, method="POST", path="^/rest/data/$", times=1)
    fail(installation, "cdcs", fault)

    installation.hand_over(session)
    installation.wait_until_settled(session)

    after = installation.delivered(session)
    assert (after.status, after.log) == ("COMPLETED", succeeded(installation))
    assert after.runs == [(1, "closed")]
    made = [call for call in installation.stand_ins.cdcs.calls.as_json()["recent"] if call["path"] == "/rest/data/"]
    assert [call["status"] for call in made] == [429, 201]
    assert made[1]["started"] - made[0]["ended"] > wait
    assert copies(installation.stand_ins, session) == once(record_xml(session))


# --- eLabFTW upload answers 503 once


def test_elabftw_upload_answers_503_once_and_the_attachment_is_whole(installation: Installation) -> None:
    session = new_session()
    fail(installation, "elabftw", Fault(FaultKind.STATUS, status=503, method="POST", path="/uploads$", times=1))

    installation.hand_over(session)
    installation.wait_until_settled(session)

    assert applied(installation, "elabftw") == 1
    assert installation.status(session) == "COMPLETED"
    assert copies(installation.stand_ins, session) == once(record_xml(session))
    [experiment] = installation.stand_ins.elabftw.objects()
    assert [file["filesize"] for file in experiment["uploads"]] == [len(record_xml(session))]


# --- CDCS's assign call answers 500


def test_cdcs_assign_answers_500_but_the_record_is_in_the_public_workspace_at_once(installation: Installation) -> None:
    session = new_session()
    fail(installation, "cdcs", Fault(FaultKind.STATUS, status=500, method="PATCH"))

    installation.hand_over(session)
    installation.wait_until_settled(session)

    assert installation.status(session) == "COMPLETED"
    [record] = installation.stand_ins.cdcs.objects()
    assert record["workspace"] == PUBLIC_WORKSPACE
    assert applied(installation, "cdcs") == 0
    assert writing_calls(installation.stand_ins)["POST /rest/data/"] == 1


def test_without_the_right_to_the_workspace_the_export_fails_visibly_and_makes_no_hidden_record(
    installation: Installation,
) -> None:
    session = new_session()
    fail(installation, "cdcs", Fault(FaultKind.STATUS, status=500, body=NO_RIGHT, method="POST", path="^/rest/data/$"))

    installation.hand_over(session)

    assert "publish to the workspace" in reason(installation, session, "cdcs")
    wait_for_states(installation, session, {"elabftw": "succeeded", "labarchives": "succeeded"})
    [shown] = installation.command("status", session, "--json").document["sessions"]
    assert shown["record_status"] == "BUILT_NOT_EXPORTED"
    [told] = [delivery for delivery in shown["deliveries"] if delivery["destination"] == "cdcs"]
    assert told["state"] != "succeeded"
    assert "NX_CDCS_WORKSPACE_TITLE" in told["error_message"]
    assert installation.stand_ins.cdcs.objects() == []
    fail(installation, "cdcs")
    installation.wait_until_settled(session)
    assert installation.status(session) == "COMPLETED"
    assert copies(installation.stand_ins, session) == once(record_xml(session))


# --- 504 after the server had saved, twice


@pytest.mark.parametrize(("name", "path"), [("cdcs", "^/rest/data/$"), ("elabftw", "/experiments$")])
def test_504_after_the_server_had_saved_twice_leaves_one_copy(installation: Installation, name: str, path: str) -> None:
    session = new_session()
    fail(installation, name, Fault(FaultKind.STATUS_AFTER, status=504, method="POST", path=path, times=2))

    installation.hand_over(session)
    installation.wait_until_settled(session)

    after = installation.delivered(session)
    assert (after.status, after.log) == ("COMPLETED", succeeded(installation))
    assert copies(installation.stand_ins, session) == once(record_xml(session))
    assert applied(installation, name) == 1, "it was asked to make a second copy"


# --- LabArchives 502 after it had saved, twice


@pytest.mark.parametrize("path", ["/insert_node$", "/add_entry$", "/add_attachment$"])
def test_labarchives_502_after_it_had_saved_twice_leaves_one_page_with_one_entry(
    installation: Installation, path: str
) -> None:
    session, earlier = new_session(), new_session()
    installation.hand_over(earlier)  # so that the folders are there
    installation.wait_until_settled(earlier)
    fail(installation, "labarchives", Fault(FaultKind.STATUS_AFTER, status=502, path=path, times=2))

    installation.hand_over(session)
    installation.wait_until_settled(session)

    after = installation.delivered(session)
    assert (after.status, after.log) == ("COMPLETED", succeeded(installation))
    assert copies(installation.stand_ins, session) == once(record_xml(session))
    assert applied(installation, "labarchives") == 1, "it was asked to make a second one"


# --- connection reset after the server had saved


def test_connection_reset_after_the_server_had_saved_is_one_record_and_one_experiment(
    installation: Installation,
) -> None:
    session = new_session()
    fail(installation, "cdcs", Fault(FaultKind.RESET_AFTER, method="POST", path="^/rest/data/$", times=1))
    fail(installation, "elabftw", Fault(FaultKind.RESET_AFTER, method="POST", path="/experiments$", times=1))

    installation.hand_over(session)
    installation.wait_until_settled(session)

    assert (applied(installation, "cdcs"), applied(installation, "elabftw")) == (1, 1)
    after = installation.delivered(session)
    assert (after.status, after.log) == ("COMPLETED", succeeded(installation))
    installation.hand_over(session)
    installation.wait_until_settled(session)
    assert installation.delivered(session) == after
    assert copies(installation.stand_ins, session) == once(record_xml(session))


# --- a second export of the same session


def test_a_second_export_of_the_same_session_doubles_nothing_and_makes_no_call(installation: Installation) -> None:
    session = new_session()
    installation.hand_over(session)
    installation.wait_until_settled(session)
    before, made = installation.delivered(session), calls(installation.stand_ins)

    installation.hand_over(session)
    installation.wait_until_settled(session)

    assert made.total() >= len(ALL_THREE)
    assert calls(installation.stand_ins) == made
    assert installation.delivered(session) == before
    assert copies(installation.stand_ins, session) == once(record_xml(session))


# --- CDCS or eLabFTW hangs


@pytest.mark.parametrize("name", ["cdcs", "elabftw"])
def test_a_service_that_hangs_is_cut_off_the_others_go_on_and_it_arrives_later(
    patient: Installation, name: str
) -> None:
    others = {other: "succeeded" for other in ALL_THREE if other != name}
    first, later = new_session(), new_session()
    fail(patient, name, Fault(FaultKind.HANG))

    patient.hand_over(first)
    wait_until(lambda: applied(patient, name) > 0, SOON, f"{name} to be asked")
    patient.hand_over(later)  # what hangs stops nobody who comes later
    for session in (first, later):
        wait_for_states(patient, session, others)
        assert reason(patient, session, name)
        assert patient.status(session) == "BUILT_NOT_EXPORTED"
    hung = [call for call in stand_in(patient, name).calls.as_json()["recent"] if call["ended"] is not None]
    fail(patient, name)
    patient.wait_until_settled(first, later)

    assert hung
    # of the one that was cut off soonest: a machine that stands still only adds
    assert min(call["ended"] - call["started"] for call in hung) < 2 * CALL_DEADLINE
    for session in (first, later):
        assert patient.status(session) == "COMPLETED"
        assert copies(patient.stand_ins, session) == once(record_xml(session))


# --- killed in the middle of a batch


def test_killed_in_the_middle_of_a_batch_each_record_arrives_exactly_once(patient: Installation) -> None:
    identifiers = [new_session() for _ in range(8)]
    for name in ALL_THREE:
        fail(patient, name, Fault(FaultKind.LATENCY, seconds=0.1))
    [*_, worker] = patient.workers
    for session in identifiers:
        patient.hand_over(session)
    wait_until(lambda: len(patient.stand_ins.cdcs.objects()) >= 2, SOON, "some records to be in CDCS")

    worker.kill()  # SIGKILL, with its children
    done = [session for session in identifiers if patient.status(session) == "COMPLETED"]
    patient.start_worker("after-the-kill")
    patient.wait_until_settled(*identifiers, seconds=SOON)

    assert len(done) < len(identifiers), "it was killed too late"
    # a run is lost with its message, or goes on without the attempt when a broker brings the message again at once
    broken_off = """
        SELECT 1 FROM attempt JOIN run ON run.id = run_id JOIN record ON record.id = record_id
        WHERE session_identifier = ANY(:s) AND (run.state = 'lost' OR attempt.state = 'expired')
    """
    assert patient.rows(broken_off, s=identifiers), "nothing was under way"
    for session in identifiers:
        assert patient.status(session) == "COMPLETED"
        assert copies(patient.stand_ins, session) == once(record_xml(session)), patient.history(session)
    titles = [found["title"] for found in patient.stand_ins.cdcs.objects()]
    assert len(titles) == len(set(titles)) == len(identifiers)


# --- one destination unreachable at the start


def test_one_destination_unreachable_at_the_start_the_record_is_built_and_sent_to_the_others(
    patient: Installation,
) -> None:
    session = to_be_built(patient)
    with unreachable(patient, "cdcs"):
        built = patient.command("build", session, "--wait", "--json")

        assert built.status == 1
        [document] = built.document
        states = {delivery["destination"]: delivery["state"] for delivery in document["deliveries"]}
        assert states == {"cdcs": "retrying", "elabftw": "succeeded", "labarchives": "succeeded"}
        assert document["record_status"] == "BUILT_NOT_EXPORTED"
        assert document["record"] is not None
    patient.wait_until_settled(session)
    assert patient.status(session) == "COMPLETED"
    assert [len(each.objects()) for each in (patient.stand_ins.cdcs, patient.stand_ins.elabftw)] == [1, 1]


def to_be_built(installation: Installation) -> str:
    """A session with one file, on an instrument of the same name."""
    session = new_session()
    folder = installation.instruments / session
    folder.mkdir()
    notes = folder / "notes.txt"
    notes.write_text("seen today", encoding="utf-8")
    with transaction(installation.deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow(session, None, None, session, "UTC"))
        row = SessionRow(session, session, START, END, "ann", SessionStatus.TO_BE_BUILT)
        sessions.add_session(connection, row)
    moment = (START + (END - START) / 2).timestamp()
    os.utime(notes, (moment, moment))
    return session


# --- BUILT_NOT_EXPORTED


def test_built_not_exported_comes_back_by_retry_and_what_is_there_is_not_sent_again(
    installation: Installation,
) -> None:
    session = new_session()
    fail(installation, "labarchives", refusing("labarchives")["labarchives"])
    installation.hand_over(session)
    installation.wait_until_settled(session)
    assert installation.status(session) == "BUILT_NOT_EXPORTED"
    assert installation.delivered(session).deliveries["labarchives"] == "failed"
    before = {name: stand_in(installation, name).calls.as_json()["total"] for name in ("cdcs", "elabftw")}
    fail(installation, "labarchives")

    retried = installation.command("retry", session)
    installation.wait_until_settled(session)

    assert retried.status == 0, retried.errors
    assert installation.status(session) == "COMPLETED"
    assert copies(installation.stand_ins, session) == once(record_xml(session))
    after = {name: stand_in(installation, name).calls.as_json()["total"] for name in ("cdcs", "elabftw")}
    assert after == before


# --- best_effort with one failure


def test_best_effort_with_one_failure_is_retried_until_it_arrives(patient: Installation) -> None:
    session = new_session()
    fail(patient, "elabftw", Fault(FaultKind.STATUS, status=503))

    patient.hand_over(session, strategy=Strategy.BEST_EFFORT)
    wait_until(lambda: patient.delivered(session).log.count(("elabftw", 0)) >= 2, SOON, "two failed attempts")
    while_away = patient.delivered(session)
    fail(patient, "elabftw")
    patient.wait_until_settled(session)

    assert while_away.status == "COMPLETED"
    assert while_away.deliveries["elabftw"] in {"pending", "retrying"}
    assert patient.delivered(session).deliveries == dict.fromkeys(ALL_THREE, "succeeded")
    assert copies(patient.stand_ins, session) == once(record_xml(session))


# --- <script> in a session id or user name


def test_script_in_a_session_id_or_user_name_is_escaped_in_both_notebooks(installation: Installation) -> None:
    session, user = f"{new_session()}<script>alert(1)</script>", "<script>alert(2)</script>"
    record = RecordToExport(
        session_identifier=session,
        instrument_pid=INSTRUMENT,
        dt_from=START,
        dt_to=END,
        timezone="UTC",
        user=user,
        xml=record_xml(session),
        activities=[],
    )

    export_records([record], installation.deployment)
    installation.wait_until_settled(session)

    assert installation.status(session) == "COMPLETED"
    [experiment] = installation.stand_ins.elabftw.objects(content=True)
    notebook = installation.stand_ins.labarchives.objects(content=True)
    [summary] = [found["entry_data"] for found in notebook if found.get("part_type") == "text entry"]
    for shown in (experiment["body"], summary):
        assert "<script" not in shown.lower()
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
        assert "&lt;script&gt;alert(2)&lt;/script&gt;" in shown


# --- LabArchives unreachable


@contextmanager
def resetting(installation: Installation, name: str) -> Iterator[None]:
    fail(installation, name, Fault(FaultKind.RESET))
    yield
    fail(installation, name)


@contextmanager
def hanging(installation: Installation, name: str) -> Iterator[None]:
    fail(installation, name, Fault(FaultKind.HANG))
    yield
    fail(installation, name)


@pytest.mark.parametrize("trouble", [unreachable, resetting, hanging], ids=["refused", "reset", "hangs"])
def test_labarchives_unreachable_no_credential_is_in_the_upload_log_or_in_a_log_file(
    patient: Installation, trouble: Trouble
) -> None:
    session = new_session()

    with trouble(patient, "labarchives"):
        patient.hand_over(session)
        wait_for_failure(patient, session, "labarchives")
    patient.wait_until_settled(session)
    # the worker's last words about it come after its last rows
    wait_until(lambda: any(session in text for text in logs(patient)), SOON, "the session to be in a log file")

    told = [
        str(row[0])
        for row in patient.rows(
            "SELECT error_message FROM upload_log WHERE session_identifier = :session AND success = 0 "
            "UNION ALL SELECT attempt.error_message FROM attempt JOIN delivery ON delivery.id = delivery_id "
            "JOIN record ON record.id = delivery.record_id "
            "WHERE session_identifier = :session AND attempt.error_message IS NOT NULL "
            "UNION ALL SELECT reason FROM destination WHERE reason IS NOT NULL",
            session=session,
        )
    ]
    assert len(told) >= 2
    assert all("LabArchives" in each for each in told), told
    assert any("LabArchives" in text for text in logs(patient)), "the failure is in no log file"
    for text in (*told, *logs(patient)):
        assert [secret for secret in secrets() if secret in text] == []
    assert copies(patient.stand_ins, session) == once(record_xml(session))


def logs(installation: Installation) -> list[str]:
    """What workers, beat and builders have written, and what Celery printed."""
    return [path.read_text(errors="replace") for path in installation.folder.rglob("*.log") if path.is_file()]


def secrets() -> list[str]:
    """What a signed address consists of, and what signs it; as it is, and as an address has it."""
    account = LABARCHIVES_ACCOUNT
    plain = [account.password, account.uid]
    return ["sig=", "akid=", "expires=", *plain, *map(quote, plain), *map(quote_plus, plain)]
