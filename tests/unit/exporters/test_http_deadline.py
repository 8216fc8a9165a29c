import os
import socket
import threading
import time

from nexus_tasks.exporters import http_deadline
from nexus_tasks.exporters.http_deadline import Deadline, Watchdog
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


def wait_for(seconds: float) -> None:
    """Wait until the watchdog has expired a deadline of so many seconds."""
    here, there = socket.socketpair()
    with here, there, Deadline(seconds) as later:
        later.watch(here)
        assert here.recv(1) == b""


def test_a_call_that_ends_in_time_leaves_its_socket_alone() -> None:
    here, there = socket.socketpair()
    with here, there:
        with Deadline(0.05) as deadline:
            deadline.watch(here)
        wait_for(0.1)
        there.send(b"x")
        assert here.recv(1) == b"x"
        assert not deadline.expired


def test_a_short_deadline_is_kept_beside_longer_ones() -> None:
    with Deadline(60) as longer, Deadline(90):
        for _ in range(3):
            wait_for(0.02)
        assert not longer.expired
    wait_for(0.02)


def test_deadlines_of_many_threads_are_kept() -> None:
    ended: list[float] = []

    def call(seconds: float) -> None:
        wait_for(seconds)
        ended.append(seconds)

    threads = [threading.Thread(target=call, args=(number / 50,)) for number in range(1, 17)]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ended) == len(threads)


def test_many_calls_start_one_thread_and_do_not_wake_it() -> None:
    before = threading.active_count()
    watchdog = Watchdog()
    looked: list[int] = []
    wait = watchdog._changed.wait

    def counted(timeout: float | None = None) -> bool:
        looked.append(1)
        return wait(timeout)

    watchdog._changed.wait = counted  # type: ignore[method-assign]
    for _ in range(100):
        deadline = Deadline(60)
        deadline.until = time.monotonic() + 60
        watchdog.add(deadline)
        watchdog.discard(deadline)
    assert threading.active_count() <= before + 1
    assert len(looked) <= 2  # once before the first deadline was there, and once for it


def test_a_forked_process_keeps_its_own_deadlines_and_not_its_parents() -> None:
    here, there = socket.socketpair()
    with here, there, Deadline(0.5) as parents:
        parents.watch(there)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                wait_for(0.01)
                wait_for(1)  # after the parent's: nothing of that is shut down by the child
                status = 0 if not parents.expired and not http_deadline._watchdog._running else 1
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
