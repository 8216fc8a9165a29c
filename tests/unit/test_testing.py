"""The conformance suite is tried on a destination that keeps its promises, and on each way of not keeping them."""

import hashlib
from collections import defaultdict
from pathlib import Path

import pytest

from nexus_tasks.builder.schema import parse_record, validate
from nexus_tasks.exporters.base import Activity, MemoryCheckpoint
from nexus_tasks.testing import sample_context

pytest_plugins = ["pytester"]

# A service in memory, a destination for it that is right, and others that are each wrong in one way.
DESTINATIONS = """
import socket
from dataclasses import dataclass, field

import pytest

from nexus_tasks.exporters.base import (
    Check, ConfigurationError, ExportResult, NothingDoneError, PermanentError, TransientError,
)
from nexus_tasks.exporters.steps import Found, Steps, fingerprint
from nexus_tasks.testing import DestinationConformance

TOKEN = "t0ken-of-the-lab"


@dataclass
class Shelf:
    pages: dict = field(default_factory=dict)
    away: bool = False
    losing: bool = False
    token: str = TOKEN

    def let_in(self, token):
        if self.away:
            raise NothingDoneError("the shelf is not reached")
        if token != self.token:
            raise ConfigurationError("the shelf does not let us in: check the token")

    def add(self, token, title, text):
        self.let_in(token)
        number = str(len(self.pages) + 1)
        self.pages[number] = [title, text]
        if self.losing:
            self.losing = False
            raise TransientError("the answer got lost")
        return number

    def change(self, token, number, text):
        self.let_in(token)
        self.pages[number][1] = text

    def find(self, token, title):
        self.let_in(token)
        return next((Found(number) for number, page in self.pages.items() if page[0] == title), None)


class Right:
    name, priority, updates, enabled = "right", 50, True, True
    depends_on = ("cdcs",)
    shelf = None

    def validate_config(self):
        return True, None

    def checks(self):
        return [Check("reachable", lambda: "it answers")]

    def title(self, context):
        return context.session_identifier

    def text(self, context):
        return context.xml_file_path.read_text(encoding="utf-8")

    def export(self, context):
        steps, title, text = Steps(context.checkpoint, "page"), self.title(context), self.text(context)
        content = fingerprint(text)
        held = steps.ensure(
            "page",
            lambda: self.shelf.add(TOKEN, title, text),
            find=lambda: self.shelf.find(TOKEN, title),
            content=content,
        )
        if held.content != content:
            self.shelf.change(TOKEN, held.identifier, text)
            steps.end_update("page", content)
        return ExportResult(True, self.name, held.identifier, f"https://shelf.example.org/{held.identifier}")


class Doubling(Right):
    def export(self, context):
        return ExportResult(True, self.name, self.shelf.add(TOKEN, self.title(context), self.text(context)))


class Swallowing(Right):
    def export(self, context):
        try:
            return super().export(context)
        except Exception:
            return ExportResult(True, self.name, "1")


class GivingUp(Right):
    def export(self, context):
        try:
            return super().export(context)
        except Exception as error:
            return ExportResult(False, self.name, error_message=str(error))


class Telling(Right):
    def export(self, context):
        try:
            return super().export(context)
        except ConfigurationError as error:
            raise ConfigurationError(f"refused with token {TOKEN}") from error


class Chaining(Right):
    def export(self, context):
        try:
            return super().export(context)
        except ConfigurationError:
            try:
                raise ValueError(f"GET https://shelf.example.org/?token={TOKEN}")
            except ValueError as error:
                raise ConfigurationError("refused") from error


class Forgetful(Right):
    def __init__(self):
        self.known = {}

    def export(self, context):
        title = self.title(context)
        if title not in self.known:
            self.known[title] = self.shelf.add(TOKEN, title, self.text(context))
        return ExportResult(True, self.name, self.known[title])


class Shortening(Right):
    def title(self, context):
        return context.session_identifier[:40]

    def export(self, context):
        found = self.shelf.find(TOKEN, self.title(context))
        number = found.identifier if found else self.shelf.add(TOKEN, self.title(context), self.text(context))
        self.shelf.change(TOKEN, number, self.text(context))
        return ExportResult(True, self.name, number)


class Dropping(Right):
    def title(self, context):
        return super().title(context).encode("ascii", errors="ignore").decode()

    def text(self, context):
        return super().text(context).encode("ascii", errors="ignore").decode()


class Deaf(Right):
    def export(self, context):
        number = context.checkpoint.create(
            "page",
            lambda: self.shelf.add(TOKEN, self.title(context), self.text(context)),
            find=lambda: found.identifier if (found := self.shelf.find(TOKEN, self.title(context))) else None,
        )
        return ExportResult(True, self.name, number)


class Doubtful(Right):
    def export(self, context):
        def add():
            try:
                return self.shelf.add(TOKEN, self.title(context), self.text(context))
            except NothingDoneError as error:
                raise TransientError(str(error)) from None

        return ExportResult(True, self.name, context.checkpoint.create("page", add))


class DoubtfulSharing(Doubtful):
    def export(self, context):
        def open_folder():
            self.shelf.let_in(TOKEN)
            return "folder"

        context.shared.create("folder", open_folder)
        return super().export(context)


class Refusing(Right):
    why = "the shelf takes letters and digits only"

    def export(self, context):
        if not context.session_identifier.replace("-", "").isalnum():
            return ExportResult(False, self.name, error_message=self.why)
        return super().export(context)


class Silent(Refusing):
    why = None


class Slow(Right):
    interval = 120


class Dialling(Right):
    def validate_config(self):
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=1).close()
        except OSError:
            pass
        return True, None


class Meddling(Right):
    def checks(self):
        return [Check("writable", lambda: "wrote " + self.shelf.add(TOKEN, "a try", ""))]


class Speechless(Right):
    def checks(self):
        return [Check("reachable", lambda: None)]


class Nameless(Right):
    name = "No Name"


class Counting(Right):
    def export(self, context):
        result = super().export(context)
        return ExportResult(True, self.name, int(result.record_id))


class Conformance(DestinationConformance):
    kind = Right
    secrets = (TOKEN,)

    @pytest.fixture
    def destination(self):
        self.shelf = Shelf()
        return self.new_destination(None)

    def new_destination(self, destination):
        made = self.kind()
        made.shelf = self.shelf
        return made

    def objects(self):
        return list(self.shelf.pages.values())

    def lose_next_answer(self):
        self.shelf.losing = True

    def break_service(self):
        self.shelf.away = True

    def mend_service(self):
        self.shelf.away = False

    def refuse_credentials(self):
        self.shelf.token = "another"


for kind in (
    Right, Doubling, Swallowing, GivingUp, Telling, Chaining, Forgetful, Shortening, Dropping, Deaf, Doubtful,
    DoubtfulSharing, Refusing, Silent, Slow, Dialling, Meddling, Speechless, Nameless, Counting,
):
    globals()[f"Test{kind.__name__}"] = type(f"Test{kind.__name__}", (Conformance,), {"kind": kind})


class TestWithoutHooks(DestinationConformance):
    @pytest.fixture
    def destination(self):
        Right.shelf = Shelf()
        return Right()

    def objects(self):
        return list(Right.shelf.pages.values())
"""

# What must fail for each of them; nothing but this may.
CAUGHT = {
    "Right": set[str](),
    "WithoutHooks": set[str](),
    "Doubling": {
        "exporting_the_same_again_doubles_nothing",
        "unusual_text_arrives_or_is_refused",
        "a_rebuilt_record_arrives_in_place",
        "a_link_that_comes_late_doubles_nothing",
        "a_new_process_goes_on_where_the_old_one_stopped",
        "after_a_lost_answer_the_object_is_adopted",
    },
    "Swallowing": {
        "a_service_that_is_away_is_something_that_time_can_mend",
        "refused_credentials_are_something_to_mend",
    },
    "GivingUp": {
        "after_a_lost_answer_the_object_is_adopted",
        "a_service_that_is_away_is_something_that_time_can_mend",
        "refused_credentials_are_something_to_mend",
    },
    "Telling": {"no_message_holds_a_secret"},
    "Chaining": {"no_message_holds_a_secret"},
    "Forgetful": {
        "a_rebuilt_record_arrives_in_place",
        "a_new_process_goes_on_where_the_old_one_stopped",
        "after_a_lost_answer_the_object_is_adopted",
    },
    "Shortening": {"sessions_with_similar_identifiers_are_kept_apart"},
    "Dropping": {"unusual_text_arrives_or_is_refused"},
    "Deaf": {"a_rebuilt_record_arrives_in_place"},
    "Doubtful": {
        "a_rebuilt_record_arrives_in_place",
        "after_a_lost_answer_the_object_is_adopted",
        "a_service_that_was_not_reached_leaves_nothing_in_doubt",
    },
    "DoubtfulSharing": {
        "a_rebuilt_record_arrives_in_place",
        "after_a_lost_answer_the_object_is_adopted",
        "a_service_that_was_not_reached_leaves_nothing_in_doubt",
    },
    "Refusing": set[str](),
    "Silent": {"unusual_text_arrives_or_is_refused"},
    "Slow": {"it_describes_itself_as_the_contract_says"},
    "Dialling": {"its_settings_are_checked_without_the_network"},
    "Meddling": {"its_checks_tell_something_and_change_nothing"},
    "Speechless": {"its_checks_tell_something_and_change_nothing"},
    "Nameless": {"it_describes_itself_as_the_contract_says"},
    "Counting": {"it_exports_a_record_and_says_its_id_and_address"},
}


def test_the_suite_passes_a_destination_that_is_right_and_catches_each_that_is_not(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_destinations=DESTINATIONS)
    run = pytester.inline_run("-q", "-p", "no:cacheprovider")

    passed, skipped, failed = run.listoutcomes()
    caught = defaultdict[str, set[str]](set)
    for report in failed:
        caught[_class_of(report.nodeid)].add(_test_of(report.nodeid))
        assert not isinstance(report, pytest.CollectReport)
    assert {name: caught[name] for name in CAUGHT} == CAUGHT
    assert {_class_of(report.nodeid) for report in skipped} == {"WithoutHooks"}
    assert {_class_of(report.nodeid) for report in passed} == set(CAUGHT)
    reasons = {str(report.longrepr[2]) for report in skipped if isinstance(report.longrepr, tuple)}
    assert "Skipped: the hook lose_next_answer() is not given" in reasons


def _class_of(nodeid: str) -> str:
    return nodeid.split("::")[1].removeprefix("Test")


def _test_of(nodeid: str) -> str:
    return nodeid.split("::")[2].partition("[")[0].removeprefix("test_")


def test_the_sample_is_a_valid_record_with_files_and_previews(tmp_path: Path) -> None:
    context = sample_context(tmp_path)

    xml = context.xml_file_path.read_bytes()
    validate(xml)
    assert parse_record(xml).findtext("{*}title") == "Sample record (first)"
    assert context.metadata == {"sha256": hashlib.sha256(xml).hexdigest()}
    assert context.dt_from.utcoffset() is not None
    pairs = [pair for activity in context.activities for pair in zip(activity.files, activity.previews, strict=True)]
    assert len(pairs) == 3
    assert all(file.is_file() for file, _ in pairs)
    assert sum(preview is None for _, preview in pairs) == 1
    assert all(preview.read_bytes().startswith(b"\x89PNG") for _, preview in pairs if preview is not None)


def test_another_text_is_another_version_of_the_same_sample(tmp_path: Path) -> None:
    checkpoint = MemoryCheckpoint()
    first, second = (sample_context(tmp_path, "one", text=text, checkpoint=checkpoint) for text in ("a", "b"))

    assert first.session_identifier == second.session_identifier
    assert first.checkpoint is second.checkpoint is checkpoint
    assert first.xml_file_path.read_bytes() != second.xml_file_path.read_bytes()
    assert isinstance(first.activities[0], Activity)
    assert sample_context(tmp_path, "one", text="a").xml_file_path.read_bytes() == first.xml_file_path.read_bytes()
