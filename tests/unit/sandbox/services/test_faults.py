import errno
import re
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import requests

from nexus_tasks.sandbox.services import Fault, FaultKind, StandIns, client
from nexus_tasks.sandbox.services.faults import FaultInjector

DEADLINE = 15.0  # seconds
LATE_S = 5.0  # an object that comes so late is not there yet, although the machine may have stood still


class Caller:
    """A client of the CDCS stand-in."""

    def __init__(self, stand_ins: StandIns, session: requests.Session) -> None:
        self.url = stand_ins.cdcs.url
        self.session = session
        session.headers["Authorization"] = f"Token {stand_ins.environment()['NX_CDCS_TOKEN']}"

    def create(self, timeout: float = DEADLINE) -> requests.Response:
        record = {"template": "41", "title": "t", "xml_content": "<a/>"}
        return self.session.post(f"{self.url}/rest/data/", json=record, timeout=timeout)

    def saved(self) -> int:
        return len(client.objects(self.url))

    def faults(self, *faults: dict[str, Any]) -> None:
        client.set_faults(self.url, faults)


@pytest.fixture
def caller(stand_ins: StandIns, web: requests.Session) -> Caller:
    return Caller(stand_ins, web)


def test_latency_delays_the_answer(caller: Caller) -> None:
    caller.faults({"kind": "latency", "seconds": 0.2})
    start = time.monotonic()
    assert caller.create().status_code == 201
    assert time.monotonic() - start >= 0.2


def test_a_call_whose_client_has_given_up_is_saved_all_the_same(caller: Caller) -> None:
    caller.faults({"kind": "latency", "seconds": 0.3})
    with pytest.raises(requests.ReadTimeout):
        caller.create(timeout=0.1)
    wait_until_saved(caller, 1)


def test_a_status_saves_nothing_and_looks_like_a_proxy(caller: Caller) -> None:
    caller.faults({"kind": "status", "status": 503, "retry_after": 7})
    response = caller.create()
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "7"
    assert response.headers["Content-Type"] == "text/html"
    assert "503 Service Unavailable" in response.text
    assert caller.saved() == 0


def test_a_status_can_bear_the_service_s_own_body(caller: Caller) -> None:
    caller.faults({"kind": "status", "status": 500, "body": '{"message": "connection already closed"}'})
    response = caller.create()
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == {"message": "connection already closed"}


def test_a_status_after_has_saved(caller: Caller) -> None:
    caller.faults({"kind": "status_after", "status": 504})
    assert caller.create().status_code == 504
    assert caller.saved() == 1


@pytest.mark.parametrize(("kind", "saved"), [("reset", 0), ("reset_after", 1)])
def test_a_reset_is_a_real_one(caller: Caller, kind: str, saved: int) -> None:
    caller.faults({"kind": kind, "times": 1})
    with pytest.raises(requests.ConnectionError) as raised:
        caller.create()
    reasons = [error for error in chain(raised.value) if isinstance(error, ConnectionResetError)]
    assert reasons
    assert reasons[0].errno == errno.ECONNRESET
    assert caller.saved() == saved
    assert caller.create().status_code == 201


@pytest.mark.parametrize(("kind", "saved"), [("hang", 0), ("hang_after", 1)])
def test_a_hang_says_nothing(caller: Caller, kind: str, saved: int) -> None:
    caller.faults({"kind": kind, "times": 1})
    with pytest.raises(requests.ReadTimeout):
        caller.create(timeout=0.2)
    assert caller.saved() == saved
    wait_until_idle(caller)  # the client's leaving ends it


def test_a_hang_of_some_seconds_ends_without_an_answer(caller: Caller) -> None:
    caller.faults({"kind": "hang", "seconds": 0.1})
    with pytest.raises(requests.ConnectionError):
        caller.create()


def test_a_reset_of_the_stand_in_lets_a_hanging_call_go(stand_ins: StandIns, caller: Caller) -> None:
    caller.faults({"kind": "hang"})
    errors: list[Exception] = []

    def call() -> None:
        try:
            caller.create()
        except requests.RequestException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: client.calls(caller.url)["in_progress"] == 1)
    client.reset(caller.url)
    thread.join(DEADLINE)
    assert isinstance(errors[0], requests.ConnectionError)


def test_a_truncated_answer_ends_half_way_and_has_saved(caller: Caller) -> None:
    caller.faults({"kind": "truncate", "times": 1})
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        caller.create()
    assert caller.saved() == 1


def test_an_answer_without_a_body_loses_its_last_headers(stand_ins: StandIns, web: requests.Session) -> None:
    url = stand_ins.elabftw.url
    web.headers["Authorization"] = stand_ins.environment()["NX_ELABFTW_API_KEY"]
    client.set_faults(url, [{"kind": "truncate"}])
    response = web.post(f"{url}/api/v2/experiments", json={}, timeout=DEADLINE)
    assert response.status_code == 201  # Python's client takes the end of the connection for the end of the head
    assert not re.search(r"/experiments/\d+$", response.headers.get("Location", ""))
    assert len(client.objects(url)) == 1


def test_a_late_object_appears_after_the_client_has_given_up(caller: Caller) -> None:
    caller.faults({"kind": "late", "seconds": LATE_S, "times": 1})
    with pytest.raises(requests.ReadTimeout):
        caller.create(timeout=0.1)
    assert caller.saved() == 0
    wait_until_saved(caller, 1)


def test_a_late_object_can_hide_behind_a_gateway_timeout(caller: Caller) -> None:
    caller.faults({"kind": "late", "seconds": LATE_S, "status": 504})
    assert caller.create().status_code == 504
    assert caller.saved() == 0
    wait_until_saved(caller, 1)


def test_a_late_object_does_not_survive_a_reset(caller: Caller) -> None:
    caller.faults({"kind": "late", "seconds": 0.2, "status": 504})
    caller.create()
    client.reset(caller.url)
    time.sleep(0.4)  # longer than it is late: what must not come cannot be waited for
    assert caller.saved() == 0


def test_filters_and_times_choose_the_calls(caller: Caller) -> None:
    caller.faults({"kind": "status", "status": 500, "method": "POST", "path": "^/rest/data/$", "times": 2})
    assert caller.session.get(f"{caller.url}/rest/data/").status_code == 200
    assert [caller.create().status_code for _ in range(3)] == [500, 500, 201]
    (fault,) = client.faults(caller.url)
    assert fault["applied"] == 2


def test_the_first_fault_that_fits_wins_and_latency_adds_up() -> None:
    injector = FaultInjector(
        [
            Fault(FaultKind.LATENCY, seconds=1),
            Fault(FaultKind.STATUS, status=500, path="nowhere"),
            Fault(FaultKind.RESET),
            Fault(FaultKind.LATENCY, seconds=2),
            Fault(FaultKind.HANG),
        ]
    )
    trouble = injector.choose("GET", "/rest/data/")
    assert trouble.latency == 3
    assert trouble.fault is not None
    assert trouble.fault.kind is FaultKind.RESET
    assert [each["applied"] for each in injector.as_json()] == [1, 0, 1, 1, 0]


def test_a_rate_is_repeatable() -> None:
    def hits(seed: int) -> list[bool]:
        injector = FaultInjector([Fault(FaultKind.RESET, rate=0.3)], Random(seed))
        return [injector.choose("GET", "/").fault is not None for _ in range(1000)]

    assert hits(1) == hits(1)
    assert hits(1) != hits(2)
    assert 250 < sum(hits(1)) < 350


def test_a_fault_survives_the_way_through_json() -> None:
    fault = Fault(FaultKind.STATUS_AFTER, status=504, method="POST", times=2, rate=0.5)
    assert Fault.from_json(fault.as_json()) == fault


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "explode"}, "not a valid FaultKind"),
        ({"kind": "latency"}, "needs seconds"),
        ({"kind": "late"}, "needs seconds"),
        ({"kind": "status"}, "needs a status"),
        ({"kind": "status", "status": 99}, "200 to 599"),
        ({"kind": "hang", "seconds": -1}, "not be negative"),
        ({"kind": "hang", "times": 0}, "at least 1"),
        ({"kind": "hang", "rate": 2}, "between 0 and 1"),
        ({"kind": "hang", "path": "("}, "regular expression"),
        ({"kind": "hang", "second": 3}, "has no second"),
        ({"status": 500}, "not a fault"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(caller: Caller, value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        caller.faults(value)


def chain(error: BaseException | None) -> list[BaseException]:
    """The error, and what it was raised from."""
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__context__
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_saved(caller: Caller, count: int) -> None:
    wait_until(lambda: caller.saved() == count)


def wait_until_idle(caller: Caller) -> None:
    wait_until(lambda: client.calls(caller.url)["in_progress"] == 0)
