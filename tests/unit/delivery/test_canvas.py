import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Signature

from nexus_tasks.delivery.canvas import OpenRun, canvas

SESSION = "https://nemo.example.org/api/usage_events/?id=303"
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("canvas", set_as_current=False)
    yield app
    app.close()


def drawn(app: Celery, *stages: tuple[str, ...]) -> Signature:
    """The canvas of run 7 over these stages; the attempts are numbered from 1."""
    numbers = iter(range(1, 100))
    run = OpenRun(7, TOKEN, SESSION, tuple(tuple((name, next(numbers)) for name in stage) for stage in stages))
    return canvas(app, run)


def in_words(signature: Any) -> Any:
    """A chain as a list, a chord as (header, body), a task as its name: as it looks to whoever receives it."""
    kind, kwargs = signature["subtask_type"], signature["kwargs"]
    if kind == "chain":
        return [in_words(task) for task in kwargs["tasks"]]
    if kind == "chord":
        header = kwargs["header"]
        tasks = header["kwargs"]["tasks"] if isinstance(header, dict) else header
        return ([in_words(task) for task in tasks], in_words(kwargs["body"]))
    return signature["task"]


def sent(signature: Signature) -> Any:
    """The canvas after a journey as JSON."""
    return json.loads(json.dumps(signature))


def tasks_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every plain task of a canvas."""
    if isinstance(node, list):
        for item in node:
            yield from tasks_in(item)
    elif isinstance(node, dict):
        if "task" in node and node.get("subtask_type") is None:
            yield node
        else:
            for item in node.values():
                yield from tasks_in(item)


@pytest.mark.parametrize(
    ("stages", "shape"),
    [
        ([("cdcs",)], ["export.cdcs", "finalize"]),
        ([("cdcs", "elabftw")], (["export.cdcs", "export.elabftw"], "finalize")),
        (
            [("cdcs",), ("elabftw", "labarchives")],
            ["export.cdcs", (["export.elabftw", "export.labarchives"], "finalize")],
        ),
        ([("a",), ("b",), ("c",)], ["export.a", "export.b", "export.c", "finalize"]),
        ([("a", "b"), ("c",)], (["export.a", "export.b"], ["export.c", "finalize"])),
        (
            [("a", "b"), ("c", "d")],
            [(["export.a", "export.b"], ["collect", (["export.c", "export.d"], "finalize")])],
        ),
        (
            [("a",), ("b", "c"), ("d",), ("e", "f")],
            [
                "export.a",
                (["export.b", "export.c"], ["export.d", (["export.e", "export.f"], "finalize")]),
            ],
        ),
    ],
)
def test_a_run_is_drawn_stage_after_stage_with_finalize_at_the_end(
    app: Celery, stages: list[tuple[str, ...]], shape: Any
) -> None:
    assert in_words(sent(drawn(app, *stages))) == shape


def test_three_stages_side_by_side_have_something_between_each_two(app: Celery) -> None:
    names = [task["task"] for task in tasks_in(sent(drawn(app, ("a", "b"), ("c", "d"), ("e", "f"))))]
    assert names == [
        "export.a",
        "export.b",
        "collect",
        "export.c",
        "export.d",
        "collect",
        "export.e",
        "export.f",
        "finalize",
    ]


def test_arguments_are_ids_the_runs_token_and_the_session_and_nothing_else(app: Celery) -> None:
    tasks = list(tasks_in(sent(drawn(app, ("cdcs",), ("elabftw", "labarchives")))))
    assert [(task["task"], task["args"], task["kwargs"]) for task in tasks] == [
        ("export.cdcs", [], {"attempt_id": 1, "run": TOKEN, "session": SESSION}),
        ("export.elabftw", [], {"attempt_id": 2, "run": TOKEN, "session": SESSION}),
        ("export.labarchives", [], {"attempt_id": 3, "run": TOKEN, "session": SESSION}),
        ("finalize", [], {"run_id": 7, "session": SESSION}),
    ]


def test_a_canvas_survives_json(app: Celery) -> None:
    signature = drawn(app, ("a", "b"), ("c", "d"), ("e",))
    again = Signature.from_dict(sent(signature), app=app)
    assert in_words(sent(again)) == in_words(sent(signature))
