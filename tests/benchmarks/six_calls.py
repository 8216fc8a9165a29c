"""The calls that one record cannot do without, with bodies of the sizes that the real ones have.

CDCS one (the record, in its workspace at once), eLabFTW two (the experiment, its attachment), LabArchives three (the
page, the summary with the previews, the attachment). The floor makes them inside its engine; `python -m
tests.benchmarks.six_calls RECORDS CDCS ELABFTW LABARCHIVES` makes them with bare `requests` and nothing else.
"""

import json
import resource
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

XML = "<x>" + "y" * 33_000 + "</x>"
SUMMARY = b"entry_data=" + b"z" * 160_000  # the previews as data URIs
TIMEOUT_S = 60
WARM_UP = 3  # records that are sent before the clock starts

_NOTEBOOK = "nbid=1&pid=11"


@dataclass(frozen=True)
class Call:
    """One creating call; `given` are the arguments of `requests`."""

    method: str
    path: str
    given: Mapping[str, Any] = field(default_factory=dict)


_RECORD = {"title": "2026-03-02_Bench-SEM-1_bench", "template": "7", "workspace": "3", "xml_content": XML}
_EXPERIMENT = {"title": "NexusLIMS Experiment - bench", "body": "b" * 3000, "metadata": {"extra_fields": {}}}
_PAGE = "nbid=1&parent_tree_id=11&display_text=bench&is_folder=false"
CALLS: Mapping[str, tuple[Call, ...]] = {
    "cdcs": (Call("POST", "/rest/data/", {"json": _RECORD}),),
    "elabftw": (
        Call("POST", "/api/v2/experiments", {"json": _EXPERIMENT}),
        Call("POST", "/api/v2/experiments/1/uploads", {"files": {"file": ("record.xml", XML.encode())}}),
    ),
    "labarchives": (
        Call("GET", f"/api/tree_tools/insert_node?{_PAGE}"),
        Call("POST", f"/api/entries/add_entry?{_NOTEBOOK}", {"data": SUMMARY}),
        Call("POST", f"/api/entries/add_attachment?{_NOTEBOOK}", {"data": XML.encode()}),
    ),
}

_of_thread = threading.local()


def session() -> requests.Session:
    """One for each thread; connections are kept alive."""
    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
        _of_thread.session.trust_env = False
    found: requests.Session = _of_thread.session
    return found


def make(call: Call, url: str) -> str:
    """Make one call; returns what identifies the object that it made. Raises `requests.RequestException`."""
    answer = session().request(call.method, url + call.path, timeout=TIMEOUT_S, **call.given)
    answer.raise_for_status()
    return str(answer.headers.get("Location") or answer.text[:60])


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Send records one after the other; prints the seconds of processor and of wall time that each took."""
    count, urls = int(sys.argv[1]), dict(zip(CALLS, sys.argv[2:], strict=True))
    started, used = 0.0, 0.0
    for number in range(WARM_UP + count):
        if number == WARM_UP:
            started, used = time.perf_counter(), _used_s()
        for name, calls in CALLS.items():
            for call in calls:
                make(call, urls[name])
    print(json.dumps({"processor_s": (_used_s() - used) / count, "wall_s": (time.perf_counter() - started) / count}))  # noqa: T201


if __name__ == "__main__":
    main()
