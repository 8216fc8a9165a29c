"""Creates each remote object once: an intent is committed before a creating call, its outcome is remembered after it.

An unresolved intent says that a creating call may have been made whose outcome is unknown. It is resolved by a look-up,
which counts as "not there" only once the call's deadline and a grace have passed: an answer can be lost although the
object appears seconds later.

`StepCheckpoint` is the algorithm, over a store. `DeliveryStore` holds the objects of one delivery: its lease makes this
worker the only writer, so it answers from memory, and what a call has made known is committed with the next intent or
with the attempt's end. `SharedStore` holds what the records of a destination share, such as a folder.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from nexus_tasks.db import attempts, destinations
from nexus_tasks.db.columns import UNRESOLVED_UNTIL
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.patience import patiently
from nexus_tasks.delivery.lease import Lease, LeaseLostError
from nexus_tasks.exporters.base import ConfigurationError, NothingDoneError, PermanentError

POLL_S = 0.2  # between two looks at a shared object that another worker is creating
PATIENCE_S = 3  # for another worker that is creating the same shared object at this moment

Known = dict[str, Any]  # of a step: "id", "content" (a fingerprint), UNRESOLVED_UNTIL of an intent

logger = logging.getLogger(__name__)


class NotYetResolvableError(Exception):
    """It is too early to tell whether a lost answer has left an object behind."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__(wait)
        self.wait = wait


def unresolved_for(known: dict[str, Known], now: datetime) -> timedelta | None:
    """How long until every intent among the steps can be resolved; None when there is none."""
    ends = [datetime.fromisoformat(step[UNRESOLVED_UNTIL]) for step in known.values() if UNRESOLVED_UNTIL in step]
    return max(max(ends) - now, timedelta()) if ends else None


@dataclass(frozen=True)
class Clock:
    """PostgreSQL's clock, as this process knows it: never behind it."""

    then: datetime
    asked_at: float  # on the monotonic clock, just before PostgreSQL said what time it was

    def now(self) -> datetime:
        """The time."""
        return self.then + timedelta(seconds=time.monotonic() - self.asked_at)


class Store(Protocol):
    """Where identifiers and intents are kept, by step."""

    patience: float  # seconds to wait for another worker that is creating the same object

    def look(self, step: str) -> Known:
        """What is known of the step."""
        ...

    def commit_intent(self, step: str, intent: Known, seconds: float | None) -> Known:
        """Commit the intent of a call of that many seconds; returns it, or what is known instead.

        Raises `LeaseLostError`.
        """
        ...

    def keep(self, step: str, known: Known, *, at_once: bool) -> Known:
        """Remember the outcome of a creating call, or a look-up; returns what is known then."""
        ...

    def change(self, step: str, known: Known, *, before: Known) -> None:
        """Replace what is known of the step, if it is still what was known `before`."""
        ...


class StepCheckpoint:
    """The checkpoint that a worker hands to a plugin: implements `exporters.base.Checkpoint`. Durations in seconds.

    `grace` is how long after its deadline a call may still take effect; `look_up_first` says that objects of this
    delivery may exist although nothing is known of them. `before_intent` is called before an intent is committed and
    returns when its call may leave at once: an intent holds for a call that begins now, and one that may not be made
    leaves none behind.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        call_deadline: float,
        grace: float,
        look_up_first: bool = False,
        before_intent: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._call_deadline = call_deadline
        self._grace = grace
        self._look_up_first = look_up_first
        self._before_intent = before_intent

    def get(self, step: str) -> str | None:
        """As `Checkpoint.get`."""
        return self._store.look(step).get("id")

    def written(self, step: str) -> str | None:
        """As `Checkpoint.written`."""
        return self._store.look(step).get("content")

    def wrote(self, step: str, content: str) -> None:
        """As `Checkpoint.wrote`."""
        known = self._store.look(step)
        self._store.change(step, {**known, "content": content}, before=known)

    def forget(self, step: str, identifier: str) -> None:
        """As `Checkpoint.forget`."""
        known = self._store.look(step)
        if known.get("id") == identifier:
            self._store.change(step, {}, before=known)

    def create(
        self,
        step: str,
        call: Callable[[], str],
        *,
        find: Callable[[], str | None] | None = None,
        content: str | None = None,
        seconds: float | None = None,
    ) -> str:
        """As `Checkpoint.create`; plugins let `NotYetResolvableError` and `LeaseLostError` pass."""
        give_up_at = time.monotonic() + self._store.patience
        while True:
            known = self._wait_for_others(step, give_up_at)
            if known.get("id") is not None:
                return str(known["id"])
            if (UNRESOLVED_UNTIL in known or self._look_up_first) and find is not None:
                found = find()
                if found is not None:
                    kept = self._store.keep(step, {"id": found, "content": known.get("content")}, at_once=False)
                    return str(kept["id"])
            remaining = unresolved_for({step: known}, self._clock.now())
            if remaining:
                raise NotYetResolvableError(remaining)
            self._before_intent()
            until = self._clock.now() + timedelta(seconds=(seconds or self._call_deadline) + self._grace)
            intent: Known = {"content": content, UNRESOLVED_UNTIL: until.isoformat()}
            known = self._store.commit_intent(step, intent, seconds)
            if known.get("id") is not None:
                return str(known["id"])
            if known == intent:
                break
            if time.monotonic() >= give_up_at:
                raise NotYetResolvableError(unresolved_for({step: known}, self._clock.now()) or timedelta())
        try:
            identifier = call()
        except (NothingDoneError, PermanentError, ConfigurationError):
            # this worker may have lost its lease meanwhile: what another one has written stays
            self._store.change(step, {}, before=intent)
            raise
        kept = self._store.keep(step, {"id": identifier, "content": content}, at_once=find is None)
        return str(kept["id"])

    def _wait_for_others(self, step: str, give_up_at: float) -> Known:
        while True:
            known = self._store.look(step)
            if UNRESOLVED_UNTIL not in known or time.monotonic() >= give_up_at:
                return known
            time.sleep(POLL_S)


@dataclass
class DeliveryStore:
    """The objects of one delivery, held in memory while this worker has the lease."""

    lease: Lease
    delivery_id: int
    known: dict[str, Known]
    unsaved: dict[str, Known] = field(default_factory=dict)
    patience: float = field(default=0, init=False)  # nobody else writes here
    _changed: bool = field(default=False, init=False)  # an object may be about to be changed in place

    def look(self, step: str) -> Known:
        """As `Store.look`."""
        return self.known.get(step, {})

    def commit_intent(self, step: str, intent: Known, seconds: float | None) -> Known:
        """As `Store.commit_intent`: one statement, which also commits what earlier calls have made known."""
        self.lease.extend(seconds, {**self.unsaved, step: intent})
        self._saved()
        self.known[step] = intent
        return intent

    def keep(self, step: str, known: Known, *, at_once: bool) -> Known:
        """As `Store.keep`: with the next commit, or at once where the step has no look-up."""
        self._set(step, known)
        if at_once:
            patiently(self.save)
        return self.known[step]

    def change(self, step: str, known: Known, *, before: Known) -> None:  # noqa: ARG002 - nobody else writes here
        """As `Store.change`."""
        self._set(step, known)
        self._changed = True

    def before_call(self) -> None:
        """Commit what an in-place change is about to make uncertain. Raises `LeaseLostError`."""
        if self._changed:
            self.lease.extend(known=self.unsaved)
            self._saved()

    def save(self) -> None:
        """Commit what is not saved yet, even without the lease: an identifier that is stored already wins."""
        try:
            self.lease.extend(known=self.unsaved)
        except LeaseLostError:
            made = {step: known for step, known in self.unsaved.items() if known.get("id") is not None}
            if made:
                self._report_superfluous(made, attempts.keep_identifiers(self.lease.engine, self.delivery_id, made))
        self._saved()

    def resolve(self) -> None:
        """Take the outcome of every creating call as known: the plugin has succeeded by another way."""
        for step, known in list(self.known.items()):
            if UNRESOLVED_UNTIL in known:
                self._set(step, {})

    def _set(self, step: str, known: Known) -> None:
        self.known[step] = self.unsaved[step] = known

    def _saved(self) -> None:
        self.unsaved.clear()
        self._changed = False

    def _report_superfluous(self, made: dict[str, Known], there: dict[str, Known]) -> None:
        for step, known in made.items():
            if there.get(step, {}).get("id") != known["id"]:
                _report_superfluous(f"delivery {self.delivery_id}", step, known["id"], there[step]["id"])
                self.known[step] = there[step]


@dataclass
class SharedStore:
    """The objects at one destination that its records share: other workers may create them at this moment."""

    lease: Lease
    destination: str
    known: dict[str, Known]  # as the attempt read them when it started
    patience: float = field(default=PATIENCE_S, init=False)

    def look(self, step: str) -> Known:
        """As `Store.look`; an identifier is remembered, its absence is not."""
        if self.known.get(step, {}).get("id") is None:
            with transaction(self.lease.engine) as connection:
                self.known[step], _ = destinations.lock_shared(connection, self.destination, step)
        return self.known[step]

    def commit_intent(self, step: str, intent: Known, seconds: float | None) -> Known:
        """As `Store.commit_intent`."""
        self.lease.extend(seconds)
        with transaction(self.lease.engine) as connection:
            there, now = destinations.lock_shared(connection, self.destination, step)
            if there.get("id") is None and not unresolved_for({step: there}, now):
                destinations.set_shared(connection, self.destination, step, intent)
                there = intent
        self.known[step] = there
        return there

    def keep(self, step: str, known: Known, *, at_once: bool) -> Known:  # noqa: ARG002 - others wait for it
        """As `Store.keep`: at once, even when the lease is lost by now; an identifier that is there already wins."""

        def write() -> Known:
            with transaction(self.lease.engine) as connection:
                there, _ = destinations.lock_shared(connection, self.destination, step)
                if there.get("id") is None:
                    destinations.set_shared(connection, self.destination, step, known)
                    return known
            return there

        there = self.known[step] = patiently(write)
        if there["id"] != known["id"]:
            _report_superfluous(self.destination, step, known["id"], there["id"])
        return there

    def change(self, step: str, known: Known, *, before: Known) -> None:
        """As `Store.change`."""

        def write() -> Known:
            with transaction(self.lease.engine) as connection:
                there, _ = destinations.lock_shared(connection, self.destination, step)
                if there == before:
                    destinations.set_shared(connection, self.destination, step, known)
                    return known
            return there

        self.known[step] = patiently(write)


def _report_superfluous(where: str, step: str, made: str, there: str) -> None:
    logger.error(
        "%s: step %s created %s although %s was known already: one of the two is superfluous", where, step, made, there
    )
