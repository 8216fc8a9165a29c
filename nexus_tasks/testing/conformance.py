"""The tests that every destination passes: those that ship, and a plugin author's own; run by pytest.

Subclass `DestinationConformance` in a test file, give it the fixture `destination` and say in `objects()` what stands
over there. The other hooks make the service misbehave; a test whose hook is not given is skipped, and says so.
"""

import copy
import html
import json
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from nexus_tasks.exporters.base import (
    Check,
    ConfigurationError,
    ExportContext,
    ExportDestination,
    ExportError,
    ExportResult,
    MemoryCheckpoint,
    NothingDoneError,
    PermanentError,
    TransientError,
)
from nexus_tasks.exporters.registry import LONGEST_INTERVAL, NAME
from nexus_tasks.testing.sample import sample_context

LONG = 1500  # characters of a long identifier

# What labs write into names, and what goes wrong with it somewhere. None may be lost without a word.
UNUSUAL_TEXTS = {
    "emoji": "Probe 🔬 № 7 – 5 µm",
    "markup": "<b>A&B</b> \"quoted\" 'n' </Experiment>",
    "right to left": "דגימה 12 عينة",
    "an address": "https://nemo.example.org/api/usage_events/?id=303&x=%2F",
    "a path": "../../etc/session;rm -rf",
    "a long identifier": f"https://nemo.example.org/{'x' * LONG}/303",
}

# What `attempt` takes for something that time can mend; of a plugin's own kinds of errors it knows nothing.
_TIME_CAN_MEND = (TransientError, OSError)


class DestinationConformance:
    """What the contract (`nexus_tasks.exporters.base`) promises of a destination, a test for each sentence.

    Every test begins with a new `destination`. What earlier tests left over there does no harm: sessions are named
    anew each time, and objects are counted by how many more there are.
    """

    secrets: tuple[str, ...] = ()  # tokens, passwords: what no message may hold

    # --- what a subclass gives

    @pytest.fixture
    def destination(self) -> ExportDestination:
        """The destination, with all its settings: enabled, and its service there."""
        raise NotImplementedError("give a fixture `destination` that returns yours, configured")

    def objects(self) -> Sequence[Any]:
        """What stands over there, one item for each thing that a person would count: a page, a record, a file.

        Best with what it holds, so that a change can be seen: its text, or a list or dict with texts in it.
        """
        raise NotImplementedError("say in objects() what stands over there")

    def lose_next_answer(self) -> None:
        """Have the next call that creates something be carried out, and its answer get lost: 504, a reset."""
        self._not_given("lose_next_answer")

    def break_service(self) -> None:
        """Have the service not be reached any more, as if it were stopped, until `mend_service`."""
        self._not_given("break_service")

    def mend_service(self) -> None:
        """End what `break_service` has begun; called after it, whatever happened between."""

    def refuse_credentials(self) -> None:
        """Have the credentials be refused, for instance by changing the token in the settings."""
        self._not_given("refuse_credentials")

    def new_destination(self, destination: ExportDestination) -> ExportDestination:
        """The destination as another process makes it: with nothing in its memory."""
        return type(destination)()

    def sample(self, folder: Path, session_identifier: str, **values: Any) -> ExportContext:
        """A record; override it where the service wants documents of its own kind. `values`: see `sample_context`."""
        return sample_context(folder, session_identifier, **values)

    # --- what it is

    def test_it_describes_itself_as_the_contract_says(self, destination: ExportDestination) -> None:
        """Name, priority, `enabled`, `validate_config()`, and what it declares besides."""
        _expect(isinstance(destination, ExportDestination), "It lacks name, priority, enabled, a method, or several.")
        name: Any = destination.name
        _expect(
            isinstance(name, str) and NAME.fullmatch(name),
            f"Its name is {name!r}: it must be lower-case letters, digits, '_' or '-', a letter first.",
        )
        priority: Any = destination.priority
        _expect(type(priority) is int and 0 <= priority <= 1000, "Its priority must be a whole number, 0 to 1000.")
        _expect(destination.enabled is True, "With its settings there, `enabled` must be True.")
        told: Any = destination.validate_config()
        _expect(told == (True, None), f"With its settings right, validate_config() must be (True, None), not {told!r}.")
        for declared in ("depends_on", "requires"):
            names = getattr(destination, declared, ())
            _expect(
                isinstance(names, str) or all(isinstance(each, str) for each in names),
                f"{declared} must be a tuple of names.",
            )
        _expect(isinstance(getattr(destination, "updates", False), bool), "`updates` must be True or False.")
        _expect(getattr(destination, "window", 1) >= 1, "`window` must be at least 1.")
        _expect(
            0 <= getattr(destination, "interval", 0) <= LONGEST_INTERVAL,
            f"`interval` must be a number of seconds, 0 to {LONGEST_INTERVAL}.",
        )

    def test_its_settings_are_checked_without_the_network(
        self, destination: ExportDestination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`validate_config()` is called before every export and by commands: it must be quick, whoever is away."""
        calls = []

        def refuse(*to: Any, **_: Any) -> None:
            calls.append(to[-1] if to else None)
            raise OSError("the network is not to be used here")

        for owner, name in (
            (socket.socket, "connect"),
            (socket.socket, "connect_ex"),
            (socket, "create_connection"),
            (socket, "getaddrinfo"),
        ):
            monkeypatch.setattr(owner, name, refuse)
        destination.validate_config()
        _expect(not calls, f"validate_config() uses the network ({calls}); put that into checks().")

    def test_its_checks_tell_something_and_change_nothing(self, destination: ExportDestination) -> None:
        """What `nexus-tasks destinations --check` shows."""
        checks = getattr(destination, "checks", None)
        if checks is None:
            pytest.skip("it declares no checks()")
        before = self._there()
        names = []
        for check in checks():
            _expect(isinstance(check, Check), f"checks() must hold `Check`s, not {check!r}.")
            told: Any = check.look()
            _expect(isinstance(told, str) and told.strip(), f"The check {check.name!r} tells nothing: {told!r}.")
            names.append(check.name)
        _expect(names, "checks() is empty; leave it out instead.")
        _expect(len(set(names)) == len(names), f"Two checks have one name: {names}.")
        _expect(self._there() == before, "A check has changed what stands over there.")

    # --- what it does

    def test_it_exports_a_record_and_says_its_id_and_address(
        self, destination: ExportDestination, tmp_path: Path
    ) -> None:
        """The result of an export is what `upload_log`, `nexus-tasks status` and later destinations have of it."""
        before = len(self._there())
        result = _exported(destination, self.sample(tmp_path, _a_session()))
        _expect(len(self._there()) > before, "The export says success, and nothing more stands over there.")
        _expect(result.destination_name == destination.name, "destination_name must be the destination's name.")
        identifier: Any = result.record_id
        _expect(isinstance(identifier, str) and identifier, "record_id must be the identifier over there, as text.")
        _expect(
            result.record_url is None or urlsplit(result.record_url).scheme,
            f"record_url must be an address that a person can open, or None, not {result.record_url!r}.",
        )
        _expect(_is_json(result.metadata), "metadata must be something that JSON can carry.")

    def test_exporting_the_same_again_doubles_nothing(self, destination: ExportDestination, tmp_path: Path) -> None:
        """A message can come twice, a worker can die after the export: `export` is called again."""
        context = self.sample(tmp_path, _a_session())
        first = _exported(destination, context)
        before = self._there()
        again = _exported(destination, context)
        after = self._there()
        _expect(len(after) == len(before), f"The same record again: {len(after) - len(before)} more over there.")
        _expect(again.record_id == first.record_id, f"The same record is {first.record_id}, then {again.record_id}.")
        if getattr(destination, "updates", False):
            _expect(after == before, "The same record again has changed what stands over there.")

    def test_another_record_makes_another_object(self, destination: ExportDestination, tmp_path: Path) -> None:
        """Two sessions on one instrument, on one day."""
        one = _exported(destination, self.sample(tmp_path, _a_session()))
        before = len(self._there())
        other = _exported(destination, self.sample(tmp_path, _a_session()))
        _expect(other.record_id != one.record_id, f"Two sessions have one identifier over there: {one.record_id}.")
        _expect(len(self._there()) > before, "A second session makes nothing more over there.")

    def test_sessions_with_similar_identifiers_are_kept_apart(
        self, destination: ExportDestination, tmp_path: Path
    ) -> None:
        """Where an identifier is shortened or made safe, two of them can become one name."""
        session = _a_session()
        identifiers = [f"{session}{end}" for end in ("/a b", "/a_b", "/a-b", "/A-B", f"{'x' * 300}1", f"{'x' * 300}2")]
        made: dict[str | None, str] = {}
        for identifier in identifiers:
            result = _answered(destination, self.sample(tmp_path, identifier))
            if not result.success:
                continue
            _expect(
                result.record_id not in made,
                f"{identifier[-20:]!r} and {made.get(result.record_id, '')[-20:]!r} are one object over there.",
            )
            made[result.record_id] = identifier

    @pytest.mark.parametrize("text", UNUSUAL_TEXTS.values(), ids=UNUSUAL_TEXTS)
    def test_unusual_text_arrives_or_is_refused(
        self, destination: ExportDestination, tmp_path: Path, text: str
    ) -> None:
        """In the session's identifier, the instrument and the user. A record that cannot be taken is refused."""
        plain = _a_session()
        _exported(destination, self.sample(tmp_path, plain))
        shows_identifiers = _mention(self._there(), plain)
        session, before = f"{text} {_a_session()}", len(self._there())
        context = self.sample(tmp_path, session, instrument_pid=text[:60], user=text[:60])
        result = _answered(destination, context)
        if not result.success:
            _expect(result.error_message, "It refuses the record and does not say why.")
            return
        _expect(len(self._there()) > before, "The export says success, and nothing more stands over there.")
        _expect(
            not shows_identifiers or _mention(self._there(), session),
            f"Other identifiers can be found over there, but not {session[:60]!r}.",
        )
        before = len(self._there())
        _exported(destination, context)
        _expect(len(self._there()) == before, f"The record of {session[:60]!r} again: more over there.")

    # --- what comes later

    def test_a_rebuilt_record_arrives_in_place(self, destination: ExportDestination, tmp_path: Path) -> None:
        """For `updates = True`: the same session with another document."""
        _needs_updates(destination)
        session = _a_session()
        context = self.sample(tmp_path, session)
        first = _exported(destination, context)
        before = self._there()
        rebuilt = self.sample(tmp_path, session, text="second", checkpoint=context.checkpoint)
        result = _exported(destination, rebuilt)
        after = self._there()
        _expect(len(after) == len(before), f"The rebuilt record: {len(after) - len(before)} more over there.")
        _expect(result.record_id == first.record_id, f"The rebuilt record is {result.record_id}, not in place.")
        _expect(after != before, "The rebuilt record has changed nothing (or objects() does not tell what they hold).")

    def test_a_link_that_comes_late_doubles_nothing(self, destination: ExportDestination, tmp_path: Path) -> None:
        """For `updates = True`: a destination that it depends on holds the record by now."""
        _needs_updates(destination)
        declared = getattr(destination, "depends_on", ("cdcs",))
        names = (declared,) if isinstance(declared, str) else declared
        context = self.sample(tmp_path, _a_session())
        first = _exported(destination, context)
        before = len(self._there())
        links = {
            name: ExportResult(True, name, record_id="7", record_url=f"https://{name}.example.org/7") for name in names
        }
        result = _exported(destination, replace(context, previous_results=links))
        _expect(len(self._there()) == before, "A link that came late: more over there.")
        _expect(result.record_id == first.record_id, "A link that came late: it is another object now.")

    def test_a_new_process_goes_on_where_the_old_one_stopped(
        self, destination: ExportDestination, tmp_path: Path
    ) -> None:
        """The next try may be made by any worker, which has the checkpoint and nothing else."""
        context = self.sample(tmp_path, _a_session())
        first = _exported(destination, context)
        before = len(self._there())
        other = self.new_destination(destination)
        again = _exported(other, context)
        _expect(len(self._there()) == before, "Another process, the same record: more over there.")
        _expect(again.record_id == first.record_id, f"In another process it is {again.record_id}.")
        _exported(other, self.sample(tmp_path, _a_session()))
        _expect(len(self._there()) > before, "Another process, another record: nothing more over there.")

    # --- what goes wrong

    def test_after_a_lost_answer_the_object_is_adopted(self, destination: ExportDestination, tmp_path: Path) -> None:
        """The service has saved the object, and nobody has told us: the next try must find it."""
        self._needs("lose_next_answer")
        usual = self._objects_per_record(destination, tmp_path)
        context, before = self.sample(tmp_path, _a_session()), len(self._there())
        self.lose_next_answer()
        failure = _failure(destination, context)
        _expect(
            failure is None or isinstance(failure, _TIME_CAN_MEND),
            f"A lost answer is {_kind(failure)}: nobody tries again. Raise TransientError.",
        )
        _exported(destination, context)
        more = len(self._there()) - before
        _expect(more == usual, f"After a lost answer a record has {more} objects over there instead of {usual}.")

    def test_a_service_that_is_away_is_something_that_time_can_mend(
        self, destination: ExportDestination, tmp_path: Path
    ) -> None:
        """Such a delivery is tried again for about three days; any other failure ends it."""
        self._needs("break_service")
        failure = self._failure_while_away(destination, self.sample(tmp_path, _a_session()))
        _expect(
            isinstance(failure, _TIME_CAN_MEND),
            f"While its service is away, an export is {_kind(failure)}. Raise TransientError.",
        )

    def test_a_service_that_was_not_reached_leaves_nothing_in_doubt(
        self, destination: ExportDestination, tmp_path: Path
    ) -> None:
        """Where a call cannot have done anything, `NothingDoneError` says so; else the next try waits and looks."""
        self._needs("break_service")
        shared, watched = MemoryCheckpoint(), _WatchedCheckpoint()
        first = self.sample(tmp_path, _a_session())
        _exported(destination, replace(first, shared=shared))  # what is looked up once, or made once, is known
        second = self.sample(tmp_path, _a_session(), checkpoint=watched)
        self._failure_while_away(destination, replace(second, shared=shared))
        _expect(
            not watched.in_doubt,
            f"The service was not reached, and {sorted(watched.in_doubt)} counts as perhaps done: "
            "raise NothingDoneError.",
        )

    def test_a_service_that_is_back_gets_the_record_once(self, destination: ExportDestination, tmp_path: Path) -> None:
        """After an outage."""
        self._needs("break_service")
        usual = self._objects_per_record(destination, tmp_path)
        context, before = self.sample(tmp_path, _a_session()), len(self._there())
        self._failure_while_away(destination, context)
        _exported(destination, context)
        more = len(self._there()) - before
        _expect(more == usual, f"After an outage a record has {more} objects over there instead of {usual}.")

    def test_refused_credentials_are_something_to_mend(self, destination: ExportDestination, tmp_path: Path) -> None:
        """Such a failure pauses the destination and keeps its deliveries, until somebody mends the settings."""
        self._needs("refuse_credentials")
        before = self._there()
        self.refuse_credentials()
        failure = _failure(destination, self.sample(tmp_path, _a_session()))
        _expect(
            isinstance(failure, ConfigurationError),
            f"With refused credentials, an export is {_kind(failure)}. Raise ConfigurationError.",
        )
        _expect(self._there() == before, "With refused credentials something has changed over there.")

    def test_no_message_holds_a_secret(self, destination: ExportDestination, tmp_path: Path) -> None:
        """Messages are stored in `upload_log`, logged and shown."""
        if not self.secrets:
            pytest.skip("`secrets` says of none that must not be shown")
        messages = [repr(destination.validate_config()), repr(destination)]
        messages.append(repr(_exported(destination, self.sample(tmp_path, _a_session()))))
        hooks: dict[str, Callable[[ExportContext], BaseException | None]] = {
            "break_service": lambda context: self._failure_while_away(destination, context),
            "lose_next_answer": lambda context: self._failure_after(self.lose_next_answer, destination, context),
            "refuse_credentials": lambda context: self._failure_after(self.refuse_credentials, destination, context),
        }
        for name, fail in hooks.items():
            if self._given(name):
                messages += _words(fail(self.sample(tmp_path, _a_session())))
        messages.append(repr(destination.validate_config()))
        for message in messages:
            for secret in self.secrets:
                shown = message.replace(secret, "*****")
                _expect(secret not in message, f"A message holds a secret: {shown}")

    # --- how the tests do it

    def _there(self) -> list[Any]:
        return copy.deepcopy(list(self.objects()))

    def _objects_per_record(self, destination: ExportDestination, folder: Path) -> int:
        """How many more there are after an export in which nothing goes wrong, and for which nothing is made first."""
        _exported(destination, self.sample(folder, _a_session()))  # makes what records share, such as folders
        before = len(self._there())
        _exported(destination, self.sample(folder, _a_session()))
        return len(self._there()) - before

    def _failure_while_away(self, destination: ExportDestination, context: ExportContext) -> BaseException | None:
        self.break_service()
        try:
            return _failure(destination, context)
        finally:
            self.mend_service()

    def _failure_after(
        self, hook: Callable[[], None], destination: ExportDestination, context: ExportContext
    ) -> BaseException | None:
        hook()
        return _failure(destination, context)

    def _given(self, hook: str) -> bool:
        return getattr(type(self), hook) is not getattr(DestinationConformance, hook)

    def _needs(self, hook: str) -> None:
        if not self._given(hook):
            self._not_given(hook)

    def _not_given(self, hook: str) -> None:
        pytest.skip(f"the hook {hook}() is not given")


class _WatchedCheckpoint(MemoryCheckpoint):
    """A checkpoint that tells which steps may have created something that nobody knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.in_doubt: set[str] = set()

    def create(
        self,
        step: str,
        call: Callable[[], str],
        *,
        find: Callable[[], str | None] | None = None,
        content: str | None = None,
        seconds: float | None = None,
    ) -> str:
        self.in_doubt.add(step)
        try:
            identifier = super().create(step, call, find=find, content=content, seconds=seconds)
        except (NothingDoneError, PermanentError, ConfigurationError):
            self.in_doubt.discard(step)
            raise
        self.in_doubt.discard(step)
        return identifier


def _a_session() -> str:
    """An identifier that no earlier run has used either."""
    return f"conformance-{uuid.uuid4().hex[:12]}"


def _expect(holds: object, otherwise: str) -> None:
    if not holds:
        pytest.fail(otherwise, pytrace=False)


def _exported(destination: ExportDestination, context: ExportContext) -> ExportResult:
    """The result of an export that must succeed."""
    result = _returned(destination, context)
    _expect(result.success, f"The export failed, although nothing is wrong: {result.error_message}")
    return result


def _answered(destination: ExportDestination, context: ExportContext) -> ExportResult:
    """The result of an export that may be refused; `PermanentError` is `success=False`, as the contract says."""
    try:
        return _returned(destination, context)
    except PermanentError as refusal:
        return ExportResult(False, destination.name, error_message=str(refusal))


def _returned(destination: ExportDestination, context: ExportContext) -> ExportResult:
    result: Any = destination.export(context)
    _expect(isinstance(result, ExportResult), f"export() must return an ExportResult, not {type(result).__name__}.")
    assert isinstance(result, ExportResult)  # noqa: S101 - for the type checker
    return result


def _failure(destination: ExportDestination, context: ExportContext) -> BaseException | None:
    """What an export raises, None when it succeeds; `success=False` is permanent, as the contract says."""
    try:
        result = destination.export(context)
    except Exception as error:  # noqa: BLE001 - which kind it is, is what the tests ask
        return error
    return None if result.success else PermanentError(result.error_message or "")


def _kind(failure: BaseException | None) -> str:
    if failure is None:
        return "a success"
    if isinstance(failure, ExportError):
        return f"a {type(failure).__name__} ({failure})"
    return f"a {type(failure).__name__}, which counts as permanent"


def _needs_updates(destination: ExportDestination) -> None:
    if not getattr(destination, "updates", False):
        pytest.skip("it does not declare `updates = True`: a record that changes, or a late link, never arrives")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _words(error: BaseException | None) -> Iterator[str]:
    """What is said by an error and by those that a log would show with it."""
    while error is not None:
        yield f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _mention(found: Any, text: str) -> bool:
    """Whether a text stands anywhere in it, as it is or as HTML or JSON has it."""
    if isinstance(found, dict):
        return any(_mention(part, text) for part in (*found, *found.values()))
    if isinstance(found, list | tuple | set):
        return any(_mention(part, text) for part in found)
    if isinstance(found, bytes):
        found = found.decode("utf-8", errors="replace")
    if not isinstance(found, str):
        return False
    return text in found or text in html.unescape(found) or json.dumps(text)[1:-1] in found
