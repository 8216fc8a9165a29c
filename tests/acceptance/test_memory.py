"""What the processes of a worker share."""

import psutil

from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import new_session

PROCESSES = 2


def test_processes_share_most_of_their_memory_also_after_they_have_exported(
    make_installation: InstallationMaker,
) -> None:
    installation = make_installation({})
    node = installation.start_worker(concurrency=PROCESSES)
    sessions = [new_session() for _ in range(3 * PROCESSES)]
    with installation.entered():
        for session in sessions:
            installation.hand_over(session)
        installation.wait_until_settled(*sessions, seconds=60)

    children = psutil.Process(node.container.process.pid).children()
    assert len(children) == PROCESSES
    for memory in (child.memory_full_info() for child in children):
        assert memory.uss < memory.rss / 2, memory
