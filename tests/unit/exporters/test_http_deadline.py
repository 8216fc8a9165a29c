import socket
import time

from nexus_tasks.exporters.http_deadline import Deadline
from tests.timing import fastest


def test_a_socket_is_shut_down_when_the_time_is_over() -> None:
    def wait() -> None:
        here, there = socket.socketpair()
        with here, there, Deadline(0.1) as deadline:
            deadline.watch(here)
            assert here.recv(1) == b""
            assert deadline.expired

    assert fastest(wait, enough=1) < 1


def test_a_socket_that_comes_too_late_is_shut_down_at_once() -> None:
    here, there = socket.socketpair()
    with here, there, Deadline(0.01) as deadline:
        while not deadline.expired:
            time.sleep(0.005)
        deadline.watch(here)
        assert here.recv(1) == b""


def test_a_call_that_ends_in_time_leaves_its_socket_alone() -> None:
    here, there = socket.socketpair()
    with here, there:
        with Deadline(0.05) as deadline:
            deadline.watch(here)
        deadline._timer.join(5)
        there.send(b"x")
        assert here.recv(1) == b"x"
        assert not deadline.expired
