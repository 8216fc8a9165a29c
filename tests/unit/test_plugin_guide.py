"""The guide for plugin authors is tried out: its examples export, and the suite says of them what the guide says."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.cli.commands import COMMANDS
from nexus_tasks.exporters.base import ConfigurationError, ExportDestination, ExportResult
from nexus_tasks.exporters.registry import ENTRY_POINT_GROUP, discover
from nexus_tasks.testing import DestinationConformance, sample_context

pytest_plugins = ["pytester"]

GUIDE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
TWENTY_LINES, WHOLE, SUITE = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)

# The service of the guide's example.
SERVICE = """
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class CatalogueService:
    def __init__(self, token, port=0):
        self.token, self.losing, self.held, self.calls, self._port = token, False, [], 0, port

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                service.calls += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, value = service.answer(self.command, urlsplit(self.path), self.headers, body)
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def entries(self):
        return [dict(entry) for entry in self.held]

    def answer(self, method, parts, headers, body):
        if parts.path == "/version":
            return 200, {"version": "1.0"}
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"message": "who are you?"}
        if parts.path == "/me":
            return 200, {"name": "nexus"}
        if method == "GET":
            wanted = parse_qs(parts.query)["session"][0].lower()
            return 200, [each for each in self.held if wanted in each["session"].lower()]
        entry = json.loads(body)
        if method == "POST":
            self.held.append({"id": len(self.held) + 1, **entry})
            if self.losing:
                self.losing = False
                return 504, {"message": "gateway timeout"}
            return 201, {"id": len(self.held)}
        self.held[int(parts.path.rpartition("/")[2]) - 1].update(entry)
        return 200, {}
"""


@pytest.fixture
def there(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `plugins/`, the guide's tests, and the service that they ask for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    discover([])  # what ships is imported here rather than in a test run that forgets its modules
    (pytester.path / "plugins").mkdir()
    pytester.makepyfile(catalogue_service=SERVICE, test_catalogue=SUITE)
    return pytester.path


def failing(pytester: pytest.Pytester, plugin: str) -> tuple[set[str], set[str]]:
    """The tests of the suite that fail for a plugin, and those that are skipped."""
    (pytester.path / "plugins" / "catalogue.py").write_text(plugin, encoding="utf-8")
    passed, skipped, failed = pytester.inline_run("-q", "-p", "no:cacheprovider").listoutcomes()
    of_the_suite = {name.removeprefix("test_") for name in dir(DestinationConformance) if name.startswith("test_")}
    names = [
        {report.nodeid.split("::")[2].partition("[")[0].removeprefix("test_") for report in reports}
        for reports in (passed, skipped, failed)
    ]
    assert set.union(*names) == of_the_suite
    return names[2], names[1]


def test_the_whole_example_passes_the_suite(pytester: pytest.Pytester, there: Path) -> None:
    assert failing(pytester, WHOLE) == (set(), set())


def test_the_twenty_lines_work_and_give_up_what_the_guide_says(pytester: pytest.Pytester, there: Path) -> None:
    failed, skipped = failing(pytester, TWENTY_LINES)
    assert failed == {
        "exporting_the_same_again_doubles_nothing",
        "a_new_process_goes_on_where_the_old_one_stopped",
        "unusual_text_arrives_or_is_refused",  # which sends each twice
        "after_a_lost_answer_the_object_is_adopted",
        "refused_credentials_are_something_to_mend",
    }
    assert skipped == {
        "a_rebuilt_record_arrives_in_place",
        "a_link_that_comes_late_doubles_nothing",
        "its_checks_tell_something_and_change_nothing",
    }


def test_the_twenty_lines_are_about_twenty() -> None:
    assert len([line for line in TWENTY_LINES.splitlines() if line.strip()]) <= 20
    assert len([line for line in WHOLE.splitlines() if line.strip()]) <= 100


@pytest.fixture
def service(there: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The service, running, named by the settings of the example."""
    defined: dict[str, Any] = {}
    exec(SERVICE, defined)
    with defined["CatalogueService"]("t0ken") as running:
        monkeypatch.setenv("CATALOGUE_URL", running.url)
        monkeypatch.setenv("CATALOGUE_TOKEN", "t0ken")
        yield running


def loaded(there: Path, plugin: str) -> ExportDestination:
    (there / "plugins" / "catalogue.py").write_text(plugin, encoding="utf-8")
    found = discover([there / "plugins"])
    assert found.problems == ()
    destination = found.get("catalogue")
    assert destination is not None
    return destination


@pytest.mark.parametrize("plugin", [TWENTY_LINES, WHOLE], ids=["twenty lines", "whole"])
def test_the_examples_take_part_and_export(there: Path, service: Any, tmp_path: Path, plugin: str) -> None:
    destination = loaded(there, plugin)
    assert destination.enabled
    assert destination.validate_config() == (True, None)
    result = destination.export(sample_context(tmp_path, "one"))
    assert (result.success, result.record_id) == (True, "1")
    assert str(result.record_url).endswith("/entries/1")


def test_without_their_settings_the_examples_take_no_part(
    there: Path, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CATALOGUE_URL")
    monkeypatch.delenv("CATALOGUE_TOKEN")
    for plugin in (TWENTY_LINES, WHOLE):
        destination = loaded(there, plugin)
        assert not destination.enabled
        assert destination.validate_config()[0] is False


def test_with_nothing_new_the_whole_example_makes_no_call(there: Path, service: Any, tmp_path: Path) -> None:
    destination = loaded(there, WHOLE)
    context = sample_context(tmp_path, "one")
    destination.export(context)
    assert service.calls == 1
    destination.export(context)
    assert service.calls == 1
    cdcs = ExportResult(True, "cdcs", record_url="https://cdcs.example.org/data?id=5")
    destination.export(replace(context, previous_results={"cdcs": cdcs}))
    assert service.calls == 2
    [entry] = service.held
    assert entry["link"] == "https://cdcs.example.org/data?id=5"


def test_a_refusal_of_the_whole_example_says_what_to_check(
    there: Path, service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = loaded(there, WHOLE)
    monkeypatch.setenv("CATALOGUE_TOKEN", "another")
    with pytest.raises(ConfigurationError, match="check CATALOGUE_TOKEN"):
        destination.export(sample_context(tmp_path, "one"))


def test_the_entry_point_is_of_the_group_that_is_looked_at() -> None:
    [toml] = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)
    assert list(tomllib.loads(toml)["project"]["entry-points"]) == [ENTRY_POINT_GROUP]


def test_every_command_and_file_and_hook_that_the_guide_names_exists() -> None:
    named = set(re.findall(r"nexus-tasks ([a-z]+)", GUIDE)) - {"calls"}
    assert {"destinations", "retry"} <= named <= set(COMMANDS)
    files = re.findall(r"\]\(\.\./([^)]*)\)", GUIDE) + re.findall(r"`(nexus_tasks/[^`]*\.py)`", GUIDE)
    assert files
    assert all((Path(__file__).parents[2] / file).is_file() for file in files)
    hooks = re.findall(r"^\| `(.*?)` \|", GUIDE[GUIDE.index("| hook |") :], flags=re.MULTILINE)
    names = {re.sub(r"\(.*", "", part) for hook in hooks for part in hook.split("`, `")}
    assert {"objects", "lose_next_answer", "refuse_credentials", "sample", "new_destination"} <= names
    assert all(hasattr(DestinationConformance, name) for name in names)
