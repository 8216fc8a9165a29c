"""`FileReader`: reads files in a warm child process, so that no file can hurt the builder; used by `record`.

The child is started with the first file and serves many. It is ended and replaced when it takes too long, dies, or
answers nonsense; the file that caused it becomes a dataset of type Unknown that says why. What may have been a failure
of the moment is tried once more before.
"""

import json
import logging
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import IO, Any, Self

import nexus_tasks
from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import basic, storage
from nexus_tasks.builder.readers.base import ACQUISITION_TIME, Dataset, Fact, one_line
from nexus_tasks.builder.readers.messages import dataset_from_json, file_to_json
from nexus_tasks.plain_error import PlainError

logger = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds for one file; headers take milliseconds, summing a large spectrum image some seconds
MEMORY_LIMIT = 2 * 1024**3  # bytes; the libraries take 0.1 GiB, and some formats can only be read whole
START_TIMEOUT = 60.0  # seconds to import the libraries: one when they are cached, many on a busy shared disk
LARGEST_ANSWER = 64 * 1024**2  # bytes; a hundred datasets with previews stay below

# All that the child gets of the environment. It opens files from anywhere, so it is given no secrets.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH")
# Thread pools cost address space for every core, and gain nothing for one file after the other.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ReaderStartError(PlainError):
    """The child process does not start; the message is one line with what it said."""


class _ChildFailedError(Exception):
    """The child gave no usable answer; the message completes "it could not be read: …".

    `passing` says that another reading may well give one.
    """

    def __init__(self, problem: str, *, passing: bool = False) -> None:
        super().__init__(problem)
        self.passing = passing


@dataclass(frozen=True)
class _Reading:
    """What came of reading a file once; `passing` says that it may have failed for reasons of the moment."""

    datasets: tuple[Dataset, ...]
    passing: bool = False

    @classmethod
    def failed(cls, file: DataFile, problem: str, *, passing: bool) -> Self:
        """Of a file of which nothing is known but the reason."""
        return cls(tuple(replace(dataset, problem=one_line(problem)) for dataset in basic.read(file)), passing)


class FileReader:
    """Reads one file at a time; a context manager, not for several threads at once.

    `timeout_s` and `memory_limit` (bytes) hold for each file. `command` replaces the child, for tests.
    """

    def __init__(
        self,
        *,
        timeout_s: float = TIMEOUT,
        memory_limit: int = MEMORY_LIMIT,
        command: Sequence[str] = (sys.executable, "-m", "nexus_tasks.builder.readers.child"),
    ) -> None:
        self._timeout = timeout_s
        self._command = [*command, str(timeout_s), str(memory_limit)]
        self._child: _Child | None = None
        self._installed = True
        self._remarks: dict[str, None] = {}  # each once, in order

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child process; reading again starts a new one."""
        if self._child is not None:
            self._child.end()
            self._child = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the child said when it started: sentences about readers that are missing. They are logged as well."""
        return tuple(self._remarks)

    def read(self, file: DataFile, *, zone: tzinfo = UTC) -> tuple[Dataset, ...]:
        """The datasets of `file`, at least one; times in the file that name no zone are taken to be in `zone`.

        Never raises for what is in a file. When its storage fails, the time is up or the child is killed, a fresh child
        reads it once more; what fails then is the file's own fault, as long as its storage answers.

        Raises `OSError` when it does not: nothing is known about the file until it does. Raises `ReaderStartError` when
        the child process does not start at all.
        """
        reading = self._ask(file)
        if reading.passing:
            storage.check(file.path)
            logger.info("%s is read once more: %s", file.location, reading.datasets[0].problem)
            self.close()
            reading = self._ask(file)
        if any(dataset.problem for dataset in reading.datasets):
            storage.check(file.path)
        return tuple(_completed(dataset, file, zone) for dataset in reading.datasets)

    def _ask(self, file: DataFile) -> _Reading:
        child = self._running_child()
        if child is None:
            return _Reading(basic.read(file))
        try:
            answer = child.ask(file_to_json(file), self._timeout)
            datasets = tuple(dataset_from_json(dataset) for dataset in answer.get("datasets", ()))
        except _ChildFailedError as error:
            self.close()
            return _Reading.failed(file, str(error), passing=error.passing)
        except (ValueError, TypeError, KeyError) as error:
            self.close()
            return _Reading.failed(file, f"the reader answered nonsense ({one_line(error)})", passing=False)
        if answer.get("last"):
            self.close()
        storage_failed = answer.get("storage_failed") is True
        if not datasets:
            problem = str(answer.get("problem", "it holds no datasets"))
            return _Reading.failed(file, problem, passing=storage_failed)
        return _Reading(datasets, storage_failed)

    def _running_child(self) -> "_Child | None":
        """The child, started if need be; None when RosettaSciIO is not installed."""
        if self._child is not None and self._child.has_ended():
            self.close()
        if self._child is None and self._installed:
            child = _Child(self._command)
            missing = child.start()
            if missing is None:
                self._child = child
            else:
                child.end()
                self._installed = False
                self._remark(
                    "Microscope formats are not read, records hold file names, sizes and times only: "
                    f"install nexus-tasks[readers] ({missing})."
                )
            for sentence in child.left_out:
                self._remark(sentence)
        return self._child

    def _remark(self, sentence: str) -> None:
        if sentence not in self._remarks:  # a child that is replaced says it again
            self._remarks[sentence] = None
            logger.warning("%s", sentence)


class _Child:
    """One child process and the lines exchanged with it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed by end()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C in the terminal is for the worker, which then ends the child
        )
        self._unread = b""
        self.left_out: tuple[str, ...] = ()  # readers that do not load, each in a sentence

    def start(self) -> str | None:
        """Wait until it is ready: None, or why RosettaSciIO cannot be imported. Raises `ReaderStartError`."""
        try:
            greeting = self._next_line(time.monotonic() + START_TIMEOUT)
            ready: bool = greeting["ready"]
        except (_ChildFailedError, TimeoutError, ValueError, TypeError, KeyError) as error:
            said = self._last_error()
            self.end()
            reason = said or str(error) or f"no answer within {START_TIMEOUT:g} s"
            raise ReaderStartError(f"The process that reads files does not start: {reason}.") from None
        self.left_out = tuple(str(sentence) for sentence in greeting.get("left_out", ()))
        return None if ready else str(greeting["problem"])

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer, within `timeout` seconds. Raises `_ChildFailedError`, `ValueError` or `TypeError` otherwise."""
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 opened above
        deadline = time.monotonic() + timeout
        try:
            pipe.write(json.dumps(request).encode("ascii") + b"\n")
            pipe.flush()
        except OSError:
            raise self._death() from None
        try:
            return self._next_line(deadline)
        except TimeoutError:
            raise _ChildFailedError(f"reading it takes longer than {timeout:g} s", passing=True) from None

    def has_ended(self) -> bool:
        """Whether it is gone, for instance ended by an operator or by the system for want of memory."""
        return self._process.poll() is not None

    def end(self) -> None:
        """End it at once; it holds nothing worth keeping."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    logger.debug("The reader ended before it took its last request")

    def _next_line(self, deadline: float) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe is not None  # noqa: S101 opened above
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            pieces = [self._unread]
            while b"\n" not in pieces[-1]:
                if sum(map(len, pieces)) > LARGEST_ANSWER:
                    raise _ChildFailedError(f"what was read is larger than {LARGEST_ANSWER // 1024**2} MiB")
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not selector.select(remaining):
                    raise TimeoutError
                piece = os.read(pipe.fileno(), 1024**2)
                if not piece:
                    raise self._death()
                pieces.append(piece)
        line, _, self._unread = b"".join(pieces).partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise TypeError("not a JSON object")
        return message

    def _death(self) -> _ChildFailedError:
        """How it ended, as the problem of the file that it was reading."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return _ChildFailedError("the reader closed its output")
        if status < 0:  # for want of memory, by an operator, by a share that fails under a mapped file, or by the file
            return _ChildFailedError(f"the reader died of it ({Signals(-status).name})", passing=True)
        return _ChildFailedError(f"the reader died of it (exit status {status})")

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return one_line(lines[-1]) if lines else ""


def _environment() -> dict[str, str]:
    package_root = str(Path(nexus_tasks.__file__).resolve().parent.parent)
    search = os.pathsep.join(part for part in (package_root, os.environ.get("PYTHONPATH")) if part)
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        **dict.fromkeys(_ONE_THREAD, "1"),
        "TZ": "UTC",  # some libraries give moments in local time: that must not be the time of this machine
        "PYTHONPATH": search,  # the parent may have found the package through its working directory
        "PYTHONWARNINGS": "ignore",
    }


def _completed(dataset: Dataset, file: DataFile, zone: tzinfo) -> Dataset:
    """The dataset with an aware time and the facts that every file has."""
    acquired = dataset.acquired
    facts = dataset.facts
    if acquired is None:
        acquired = file.mtime.astimezone(zone)
    else:
        acquired = acquired if acquired.tzinfo is not None else acquired.replace(tzinfo=zone)
        facts = (Fact(ACQUISITION_TIME, acquired.isoformat(timespec="seconds")), *facts)
    return replace(dataset, location=file.location, acquired=acquired, facts=(*basic.file_facts(file, zone), *facts))
