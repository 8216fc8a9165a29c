import pytest

from nexus_tasks.exporters.base import MemoryCheckpoint, TransientError
from nexus_tasks.exporters.steps import UNKNOWN, Found, Held, Steps, fingerprint


def lost_answer() -> str:
    raise TransientError("the answer was lost")


def never() -> str:
    raise AssertionError("it must not be made again")


def lose(checkpoint: MemoryCheckpoint, content: str) -> None:
    with pytest.raises(TransientError):
        Steps(checkpoint, "record").ensure("record", lost_answer, content=content)


def test_what_is_made_now_holds_what_was_sent() -> None:
    steps = Steps(MemoryCheckpoint(), "record")
    assert steps.ensure("record", lambda: "1", content="a") == Held("1", "a", created=True)
    assert steps.done == "created"


def test_what_is_remembered_holds_what_was_sent_then() -> None:
    checkpoint = MemoryCheckpoint()
    Steps(checkpoint, "record").ensure("record", lambda: "1", content="a")
    steps = Steps(checkpoint, "record")
    assert steps.ensure("record", never, content="b") == Held("1", "a")
    assert steps.done == "unchanged"


@pytest.mark.parametrize(("seen", "holds"), [("b", "b"), ("a", "a"), (None, "a")])
def test_what_is_found_holds_what_the_look_up_saw(seen: str | None, holds: str) -> None:
    checkpoint = MemoryCheckpoint()
    lose(checkpoint, "a")
    assert Steps(checkpoint, "record").ensure("record", never, find=lambda: Found("1", seen), content="b") == Held(
        "1", holds
    )
    assert checkpoint.written("record") == holds


def test_what_a_lost_request_has_sent_is_remembered_until_its_outcome_is_known() -> None:
    checkpoint = MemoryCheckpoint()
    lose(checkpoint, "a")
    assert (checkpoint.get("record"), checkpoint.written("record")) == (None, "a")
    Steps(checkpoint, "record").ensure("record", lambda: "2", find=lambda: None, content="b")
    assert checkpoint.written("record") == "b"


@pytest.mark.parametrize(("seen", "holds"), [("b", "b"), (None, UNKNOWN)])
def test_what_a_refused_call_has_left_behind_is_found_not_made(seen: str | None, holds: str) -> None:
    checkpoint = MemoryCheckpoint()
    steps = Steps(checkpoint, "record")
    assert steps.ensure("record", lambda: Found("1", seen), content="a") == Held("1", holds)
    assert (checkpoint.written("record"), steps.done) == (holds, "unchanged")


def test_what_is_found_by_nobody_is_made() -> None:
    checkpoint = MemoryCheckpoint()
    lose(checkpoint, "a")
    steps = Steps(checkpoint, "record")
    assert steps.ensure("record", lambda: "2", find=lambda: None, content="a") == Held("2", "a", created=True)


def test_something_else_that_was_made_is_an_update() -> None:
    steps = Steps(MemoryCheckpoint(), "record")
    steps.ensure("note", lambda: "1")
    assert steps.done == "updated"


def test_until_an_update_has_ended_nobody_knows_what_is_there() -> None:
    checkpoint = MemoryCheckpoint()
    steps = Steps(checkpoint, "record")
    steps.begin_update("record")
    assert (checkpoint.written("record"), steps.done) == (UNKNOWN, "unchanged")
    steps.end_update("record", "b")
    assert (checkpoint.written("record"), steps.done) == ("b", "updated")


def test_a_fingerprint_tells_where_one_part_ends() -> None:
    assert fingerprint("a") == fingerprint(b"a")
    assert fingerprint("a", "b") != fingerprint("ab")
