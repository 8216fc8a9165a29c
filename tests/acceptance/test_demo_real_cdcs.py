"""`nexus-tasks demo --real-cdcs`: the record's link leads to CDCS's own pages."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from nexus_tasks.sandbox.process_record import recorded, stop_stale
from tests.acceptance.installation import Finished, begin, finish, the_only_line
from tests.acceptance.test_demo import DEADLINE, DESTINATIONS, processes_in
from tests.acceptance.test_pages import page
from tests.live.conftest import require_cdcs

NO_PACKAGES = {"UV_OFFLINE": "1", "UV_NO_CACHE": "1", "PIP_NO_INDEX": "1"}


def demo(folder: Path, *arguments: str, **environment: str) -> Finished:
    return finish(begin(["demo", "--real-cdcs", "--dir", folder, *arguments], environment, folder.parent), DEADLINE)


def test_with_json_there_is_one_document_and_nothing_goes_on_running(tmp_path: Path) -> None:
    require_cdcs()
    folder = tmp_path / "sandbox"
    finished = demo(folder, "--sessions", "1", "--json")

    assert finished.status == 0, finished.errors
    [session] = finished.document["sessions"]
    assert session["record_status"] == "COMPLETED"
    assert sorted(delivery["destination"] for delivery in session["deliveries"]) == DESTINATIONS
    assert {delivery["state"] for delivery in session["deliveries"]} == {"succeeded"}
    assert recorded(folder) == []
    assert not processes_in(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "sandbox"
    stop_stale(tmp_path / "sandbox")


def test_with_keep_the_link_opens_in_cdcs_for_everybody_and_for_those_who_log_in(folder: Path, tmp_path: Path) -> None:
    require_cdcs()
    finished = demo(folder, "--sessions", "1", "--keep")

    assert finished.status == 0, finished.errors
    [url] = re.findall(r"http://127\.0\.0\.1:\d+/data\?id=\d+", finished.output)
    [title] = re.findall(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\w+", finished.output)
    dom = page(url, tmp_path / "profile")
    assert title in dom
    assert "Experiment" in dom

    [(name, password)] = re.findall(r"log in as (\w+) with the password ([\w-]+)", finished.output)
    logged_in = log_in(url.rsplit("/", 1)[0], name, password).get(url, timeout=10).text
    assert title in logged_in
    assert "Log out" in logged_in

    down = finish(begin(["sandbox", "down", "--dir", folder], {}, tmp_path))
    assert down.status == 0, down.errors
    assert not processes_in(folder)


def log_in(site: str, name: str, password: str) -> requests.Session:
    """As the form of the page does."""
    session = requests.Session()
    session.trust_env = False
    [token] = re.findall(r'csrfmiddlewaretoken" value="(\w+)', session.get(f"{site}/login", timeout=10).text)
    form = {"csrfmiddlewaretoken": token, "username": name, "password": password, "next_page": ""}
    assert session.post(f"{site}/login", data=form, timeout=10).ok
    return session


def test_without_the_packages_one_line_says_so_before_anything_is_started(tmp_path: Path) -> None:
    folder = tmp_path / "sandbox"
    line = the_only_line(demo(folder, "--json", XDG_CACHE_HOME=str(tmp_path / "cache"), **NO_PACKAGES))
    assert "The packages of CDCS cannot be installed" in line
    assert not folder.exists()
