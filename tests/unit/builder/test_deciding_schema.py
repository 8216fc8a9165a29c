"""Which schema decides about a record."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nexus_tasks.builder.deciding_schema import LIFE, RecordJudge
from nexus_tasks.builder.schema import NAMESPACE, OWN_SCHEMA, InvalidRecordError
from nexus_tasks.exporters.base import ExportContext, ExportResult, TransientError
from nexus_tasks.exporters.registry import Registry

RECORD = f'<Experiment xmlns="{NAMESPACE}">\n<summary/>\n</Experiment>'.encode()
OTHER = b"<Photo/>"  # what no NexusLIMS schema takes
PHOTOS = b'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="Photo"/></xs:schema>'


@dataclass
class Silent:
    """A destination that says nothing about schemas."""

    name: str = "notebook"
    priority: int = 50
    enabled: bool = True

    def validate_config(self) -> tuple[bool, str | None]:
        return True, None

    def export(self, context: ExportContext) -> ExportResult:
        raise NotImplementedError


@dataclass
class Judging(Silent):
    """A destination that answers what `say` says."""

    name: str = "repository"
    priority: int = 100
    say: Callable[[], bytes | None] = lambda: PHOTOS
    asked: int = field(default=0, init=False)

    def record_schema(self) -> bytes | None:
        self.asked += 1
        return self.say()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def judge(*destinations: Silent, path: Path | None = None, clock: Callable[[], float] | None = None) -> RecordJudge:
    ranked = sorted(destinations, key=lambda destination: -destination.priority)
    return RecordJudge(Registry(tuple(ranked)), path, clock or Clock())


def failing(error: Exception) -> Callable[[], bytes | None]:
    def say() -> bytes | None:
        raise error

    return say


def test_without_anything_said_the_projects_own_schema_decides() -> None:
    own = judge(Silent())
    own.check(RECORD)
    with pytest.raises(InvalidRecordError, match=r"the NexusLIMS schema: line 1: .*Photo"):
        own.check(OTHER)


def test_the_schema_of_the_destination_decides() -> None:
    asking = judge(Judging(), Silent())
    asking.check(OTHER)
    with pytest.raises(InvalidRecordError, match=r"the schema of repository: line 1: .*Experiment"):
        asking.check(RECORD)


def test_the_destination_of_the_highest_priority_is_asked_first() -> None:
    second = Judging(name="second", priority=20, say=OWN_SCHEMA.read_bytes)
    judge(Judging(), second).check(OTHER)
    assert second.asked == 0


def test_a_destination_that_is_not_enabled_is_not_asked() -> None:
    off = Judging(enabled=False)
    judge(off).check(RECORD)
    assert off.asked == 0


def test_the_file_of_the_settings_decides_where_no_destination_says(tmp_path: Path) -> None:
    path = tmp_path / "photos.xsd"
    path.write_bytes(PHOTOS)
    named = judge(Judging(say=lambda: None), path=path)
    named.check(OTHER)
    with pytest.raises(InvalidRecordError, match=r"the schema photos.xsd \(NX_SCHEMA_PATH\)"):
        named.check(RECORD)


def test_the_file_of_the_settings_may_include_others_beside_it(tmp_path: Path) -> None:
    (tmp_path / "photos.xsd").write_bytes(PHOTOS)
    including = PHOTOS.replace(b'<xs:element name="Photo"/>', b'<xs:include schemaLocation="photos.xsd"/>')
    (tmp_path / "all.xsd").write_bytes(including)
    judge(path=tmp_path / "all.xsd").check(OTHER)


@pytest.mark.parametrize(
    "say",
    [
        failing(TransientError("the repository is away")),
        failing(KeyError("template")),
        lambda: b"<not-a-schema/>",
        lambda: b"",
        lambda: PHOTOS.replace(b"<xs:element", b'<xs:include schemaLocation="file:///etc/hosts"/><xs:element'),
    ],
    ids=["away", "broken plugin", "no schema", "nothing", "includes a file"],
)
def test_a_schema_that_is_not_to_be_had_is_passed_over_with_one_warning(
    say: Callable[[], bytes | None], caplog: pytest.LogCaptureFixture
) -> None:
    destination = Judging(say=say)
    falling_back = judge(destination)
    with caplog.at_level(logging.WARNING):
        falling_back.check(RECORD)
        falling_back.check(RECORD)
    [warning] = caplog.messages
    assert "the schema of repository" in warning
    assert "\n" not in warning
    assert destination.asked == 1


def test_a_missing_file_of_the_settings_is_passed_over_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        judge(path=tmp_path / "gone.xsd").check(RECORD)
    [warning] = caplog.messages
    assert "NX_SCHEMA_PATH" in warning


def test_the_destination_is_asked_again_after_ten_minutes() -> None:
    clock, destination = Clock(), Judging()
    asking = judge(destination, clock=clock)
    asking.check(OTHER)
    clock.now += LIFE - 1
    asking.check(OTHER)
    assert destination.asked == 1
    clock.now += 2
    asking.check(OTHER)
    assert destination.asked == 2


def test_no_record_is_refused_by_a_schema_that_was_changed_meanwhile() -> None:
    destination = Judging()
    asking = judge(destination)
    asking.check(OTHER)
    destination.say = OWN_SCHEMA.read_bytes
    asking.check(RECORD)
    assert destination.asked == 2


def test_a_record_that_points_to_a_schema_of_its_own_is_judged_by_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "photos.xsd").write_bytes(PHOTOS)
    hint = (
        '<Photo xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:noNamespaceSchemaLocation="{(tmp_path / "photos.xsd").as_uri()}"/>'
    )
    with pytest.raises(InvalidRecordError, match="line 1"):
        judge().check(hint.encode())
