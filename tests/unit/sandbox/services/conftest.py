"""The three stand-ins, started once and empty for each test."""

from collections.abc import Iterator

import pytest
import requests

from nexus_tasks.sandbox.services import StandIns


@pytest.fixture(scope="package")
def running() -> Iterator[StandIns]:
    with StandIns.start() as stand_ins:
        yield stand_ins


@pytest.fixture
def stand_ins(running: StandIns) -> StandIns:
    running.reset()
    return running


@pytest.fixture
def web() -> Iterator[requests.Session]:
    """A client that keeps its connections and follows no redirects unless told to."""
    with requests.Session() as session:
        session.trust_env = False
        yield session
