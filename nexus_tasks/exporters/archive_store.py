"""The folder or object store that keeps the archive; used by `destinations/archive.py`.

Two kinds, chosen by the address. A folder (`file:///…`) needs nothing installed: a file is written aside, flushed to
disk, then renamed. An object store (`s3://bucket/…`) is opened by fsspec; an object there is whole or not there.
Whatever a store raises leaves this module as one of the contract's exceptions, without addresses and secrets.
"""

import errno
import importlib
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Check, ConfigurationError, ExportError, PermanentError, TransientError
from nexus_tasks.exporters.http import call_deadline
from nexus_tasks.exporters.http_failures import Answer, Call, Service, broken_call, plain_message, refusal
from nexus_tasks.exporters.required_settings import value_of

INSTALL = 'pip install "nexus-tasks[archive]"'

_SERVICE = Service("The archive's store", "the endpoint in NX_ARCHIVE_OPTIONS", "the keys in NX_ARCHIVE_OPTIONS")
_SCHEMES = {"file": (), "memory": ("fsspec",), "s3": ("fsspec", "s3fs")}  # and the modules that they need
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")
_SHORTEST_SECRET = 4  # characters; hiding less would make holes in ordinary words
_NOBODY = "no-session-has-this-name"  # a listing below it shows whether listing is allowed, and is short

# What S3 says with a status that means something else elsewhere.
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName"}
_TO_MEND = {"AuthorizationHeaderMalformed", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "PermanentRedirect"}
_TIME_CAN_MEND = {"RequestTimeout", "SlowDown", "OperationAborted", "Throttling", "ThrottlingException"}

# What the libraries below s3fs raise when a call got no whole answer, besides OSError.
_BROKEN_OFF = (
    ("botocore.exceptions", "HTTPClientError"),
    ("botocore.exceptions", "ConnectionError"),
    ("botocore.parsers", "ResponseParserError"),
    ("aiohttp", "ClientPayloadError"),  # the answer was cut while a file was being read
)

# What a file system says that every record would meet, with what to do; the rest, a disk's errors, time may mend.
_FOLDER_TO_MEND = {
    errno.ENOENT: "it is not there: make it, or mount what it is on",
    errno.EACCES: "the workers' user may not use it: give it the right to",
    errno.EPERM: "the workers' user may not use it: give it the right to",
    errno.EROFS: "it is mounted read-only",
    errno.ENOSPC: "it is full: make room",
    errno.EDQUOT: "the workers' user has used up its quota: make room",
}
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST}
_FOLDERS_ARE_NOT_FLUSHED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # on some network file systems

T = TypeVar("T")


class ArchiveStore(Protocol):
    """Files by name, in folders one deep: `{folder}/{file}`. Every method but `address_of` asks the store."""

    def sizes(self, folder: str) -> dict[str, int]:
        """The files of a folder with their sizes in bytes; empty when there is no such folder."""
        ...

    def read(self, name: str) -> bytes | None:
        """What a file holds, or None without that file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Have a file hold `content`: nobody ever sees half of it."""
        ...

    def address_of(self, name: str) -> str | None:
        """Where a person opens a file, or None where nobody can."""
        ...

    def checks(self) -> list[Check]:
        """What can be told of the store without writing to it."""
        ...


def check_settings() -> tuple[bool, str | None]:
    """Whether `NX_ARCHIVE_URL` and `NX_ARCHIVE_OPTIONS` can be meant so: (True, None), or (False, what to mend)."""
    problem = _problem_of_address(get_settings().NX_ARCHIVE_URL or "")
    if problem is None:
        try:
            _options()
        except ConfigurationError as error:
            problem = str(error)
    return problem is None, problem


def open_store(take_turn: Callable[[], None], was_used: Callable[[], bool]) -> ArchiveStore:
    """The store that the settings name, for one export; `take_turn` is called before each call to it.

    `was_used` tells whether a record was ever archived there: a folder that is empty nevertheless is not written to.
    Raises `ConfigurationError` for settings that cannot be meant so. Nothing is asked of the store yet.
    """
    url = value_of("NX_ARCHIVE_URL")
    problem = _problem_of_address(url)
    if problem is not None:
        raise ConfigurationError(problem)
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _Folder(Path(unquote(parts.path)), take_turn, was_used)
    return _ObjectStore(parts.scheme, f"{parts.netloc}{parts.path}".rstrip("/"), _options(), take_turn)


def _problem_of_address(url: str) -> str | None:
    """What is wrong with an address, without repeating any of it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "NX_ARCHIVE_URL is not an address: write file:///folder or s3://bucket/folder."
    folder, missing = unquote(parts.path), [m for m in _SCHEMES.get(parts.scheme, ()) if not _is_installed(m)]
    rules = (
        (
            parts.scheme not in _SCHEMES,
            "NX_ARCHIVE_URL must begin with file:/// (a folder) or s3:// (an object store).",
        ),
        (
            "?" in url or "#" in url,
            "NX_ARCHIVE_URL must not hold ? or #; in the name of a folder write them as %3F and %23.",
        ),
        (
            parts.scheme == "file" and (parts.netloc or "\0" in folder or not folder.strip("/")),
            "NX_ARCHIVE_URL must name a folder of this machine with three slashes: file:///folder.",
        ),
        (
            parts.scheme == "s3" and not _BUCKET.fullmatch(parts.netloc),
            "NX_ARCHIVE_URL must name a bucket: s3://bucket/folder.",
        ),
        (
            missing,
            f"The archive needs {' and '.join(missing)} for {parts.scheme}:// addresses: {INSTALL}",
        ),
    )
    return next((problem for wrong, problem in rules if wrong), None)


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _options() -> dict[str, Any]:
    """What `NX_ARCHIVE_OPTIONS` says."""
    text = get_settings().NX_ARCHIVE_OPTIONS
    try:
        options = json.loads(text.get_secret_value()) if text is not None else {}
    except ValueError:
        options = None  # the error would repeat what it could not read
    if not isinstance(options, dict):
        raise ConfigurationError('NX_ARCHIVE_OPTIONS must be a JSON object: {"key": "…", "secret": "…"}.')
    return options


class _Folder:
    """A folder of this machine's file systems.

    It is never made, and not filled when what was kept in it is gone: an unmounted disk would fill the one below it.
    """

    def __init__(self, root: Path, take_turn: Callable[[], None], was_used: Callable[[], bool]) -> None:
        self._root = root
        self._take_turn = take_turn
        self._was_used = was_used

    def sizes(self, folder: str) -> dict[str, int]:
        """See `ArchiveStore.sizes`."""

        def look() -> dict[str, int]:
            # Raises without the root, while `folder` need not be there. Twice: others may just have begun to use it.
            if self._is_empty() and self._was_used() and self._is_empty():
                raise ConfigurationError(
                    f"There is something to mend with the archive's folder {self._root}: it is empty although records "
                    "were archived there. Mount what it is on; if it was emptied on purpose, put any file there."
                )
            try:
                with os.scandir(self._root / folder) as entries:
                    return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            except FileNotFoundError:
                return {}

        return self._call(look)

    def read(self, name: str) -> bytes | None:
        """See `ArchiveStore.read`."""

        def look() -> bytes | None:
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

        return self._call(look)

    def write(self, name: str, content: bytes) -> None:
        """See `ArchiveStore.write`."""
        self._call(partial(_write_whole, self._root / name, content))

    def address_of(self, name: str) -> str | None:
        """See `ArchiveStore.address_of`."""
        return (self._root / name).as_uri()

    def checks(self) -> list[Check]:
        """See `ArchiveStore.checks`."""

        def allowed(mode: int, what: str) -> str:
            if not os.access(self._root, mode | os.X_OK):
                raise ConfigurationError(f"The workers' user may not {what} the archive's folder {self._root}.")
            return f"may {what} {self._root}"

        def reachable() -> str:
            if not self._call(self._root.is_dir):
                _raise(self._failure(FileNotFoundError(errno.ENOENT, "")))
            return f"the folder {self._root}"

        return [
            Check("reachable", reachable, needed=True),
            Check("readable", partial(allowed, os.R_OK, "read")),
            Check("writable", partial(allowed, os.W_OK, "write to")),
        ]

    def _is_empty(self) -> bool:
        with os.scandir(self._root) as entries:
            return next(entries, None) is None

    def _call(self, function: Callable[[], T]) -> T:
        self._take_turn()
        try:
            return function()
        except OSError as error:
            failure = self._failure(error)
        raise failure

    def _failure(self, error: OSError) -> ExportError:
        where, said = f"the archive's folder {self._root}", (error.strerror or type(error).__name__)
        if error.errno in _FOLDER_TO_MEND:
            return ConfigurationError(f"There is something to mend with {where}: {_FOLDER_TO_MEND[error.errno]}.")
        if error.errno in _IN_THE_WAY:
            return PermanentError(f"Something else has the name of a file or folder in {where} ({said}): move it away.")
        return TransientError(f"{where[0].upper()}{where[1:]} could not be used ({said}); look at its disk.")


def _write_whole(target: Path, content: bytes) -> None:
    """Write aside, flush, rename, flush the rename; the folder that it stands in is made, those above are not."""
    if not target.parent.is_dir():
        target.parent.mkdir(exist_ok=True)
        _flush_folder(target.parent.parent)
    handle, aside = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).rename(target)
    except BaseException:
        with suppress(OSError):
            Path(aside).unlink()
        raise
    _flush_folder(target.parent)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _FOLDERS_ARE_NOT_FLUSHED:
            raise
    finally:
        os.close(handle)


class _ObjectStore:
    """What fsspec opens. Each call has a deadline and is made once: repeating is the worker's business."""

    def __init__(self, scheme: str, root: str, options: Mapping[str, Any], take_turn: Callable[[], None]) -> None:
        self._scheme = scheme
        self._root = root
        self._options = options
        self._take_turn = take_turn

    def sizes(self, folder: str) -> dict[str, int]:
        """See `ArchiveStore.sizes`."""
        found = self._call("list", "find", self._path(folder), detail=True)
        paths = [(path.rpartition("/"), about) for path, about in found.items()]
        return {name: int(about["size"]) for (parent, _, name), about in paths if parent.endswith(f"/{folder}")}

    def read(self, name: str) -> bytes | None:
        """See `ArchiveStore.read`."""
        whole = {"max_concurrency": 1} if self._scheme == "s3" else {}  # one call, without asking for the size first
        try:
            return bytes(self._call("read", "cat_file", self._path(name), **whole))
        except _NotThereError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See `ArchiveStore.write`."""
        answer = self._call("write", "pipe_file", self._path(name), content, seconds=call_deadline(len(content)))
        if isinstance(answer, dict) and not answer.get("ETag"):  # every S3 gives one; a proxy's page has none
            raise TransientError("Something that is not the archive's store has answered; is there a proxy before it?")

    def address_of(self, name: str) -> str | None:
        """See `ArchiveStore.address_of`."""
        return None if self._scheme == "memory" else f"{self._scheme}://{self._root}/{name}"

    def checks(self) -> list[Check]:
        """See `ArchiveStore.checks`."""
        bucket = self._root.partition("/")[0]

        def reachable() -> str:
            # any answer will do, a refusal too: the checks below tell what it means
            with suppress(_NotThereError, _RefusedError):
                self._call("reach", "info", f"{self._scheme}://{bucket}")
            return "it answers"

        def bucket_exists() -> str:
            try:
                self._call("look at", "info", f"{self._scheme}://{bucket}")
            except _NotThereError:
                _raise(_no_bucket())
            return f"the bucket {bucket}"

        def readable() -> str:
            self.sizes(_NOBODY)
            return "files can be listed"

        checks = [Check("reachable", reachable, needed=True)]
        if self._scheme == "s3":
            checks.append(Check("bucket exists", bucket_exists, needed=True))
        return [
            *checks,
            Check("readable", readable),
            Check("writable", lambda: "not tried: only a write can tell"),
        ]

    def _path(self, name: str) -> str:
        return f"{self._scheme}://{self._root}/{name}"

    def _call(self, verb: str, method: str, path: str, *arguments: Any, seconds: float = 0, **named: Any) -> Any:
        """One call to the file system, `verb` naming it in messages; raises `ExportError` only."""
        self._take_turn()
        seconds = seconds or call_deadline()
        try:
            system = self._file_system()
            limit = {"timeout": seconds} if system.async_impl else {}
            return getattr(system, method)(path, *arguments, **named, **limit)
        except Exception as error:  # noqa: BLE001 - fsspec and what is below it raise what they like; it is sorted here
            failure = self._failure(error, Call(_SERVICE, verb, path.rpartition("/")[2]), seconds)
        raise failure  # outside of `except`: the libraries' errors, which hold addresses, are not chained

    def _file_system(self) -> Any:
        fsspec = importlib.import_module("fsspec")  # an extra
        options = {"use_listings_cache": False, **self._options}
        if self._scheme != "s3":
            return fsspec.filesystem(self._scheme, **options)
        settings = get_settings()
        limits = {
            "connect_timeout": settings.NX_CONNECT_TIMEOUT,
            "read_timeout": settings.NX_CALL_DEADLINE,
            "retries": {"max_attempts": 0},
        }
        trust = {} if settings.NX_CA_BUNDLE is None else {"verify": str(settings.NX_CA_BUNDLE)}
        options["config_kwargs"] = {**limits, **self._options.get("config_kwargs", {})}
        options["client_kwargs"] = {**trust, **self._options.get("client_kwargs", {})}
        system = fsspec.filesystem("s3", **options)  # one per process and thread, which fsspec remembers
        system.retries = 1
        return system

    def _failure(self, error: Exception, call: Call, seconds: float) -> ExportError:
        causes = list(_causes(error))
        secrets = tuple(_texts(self._options))
        for cause in causes:
            answered = getattr(cause, "response", None)
            if isinstance(answered, dict):
                return _refused(answered, call, secrets)
        if isinstance(error, FileNotFoundError):
            return _NotThereError(f"{call.path} is not in the archive's store.")
        if any(isinstance(cause, _broken_off()) for cause in causes):
            return broken_call(error, call, seconds=seconds, expired=isinstance(error, TimeoutError))
        said = plain_message(str(error), secrets)
        return ConfigurationError(
            f"The archive's store cannot be opened: check NX_ARCHIVE_URL and NX_ARCHIVE_OPTIONS. It says: {said}"
        )


class _NotThereError(PermanentError):
    """There is no such file; of a bucket, S3 says it without a code."""


class _RefusedError(ConfigurationError):
    """The store has answered, and does not let us in."""


def _refused(answered: dict[str, Any], call: Call, secrets: tuple[str, ...]) -> ExportError:
    """What it means that the store has answered so; `answered` is what botocore keeps of an answer."""
    code, said = (str(answered.get("Error", {}).get(part, "")) for part in ("Code", "Message"))
    about = answered.get("ResponseMetadata", {})
    headers = {str(name).lower(): str(value) for name, value in about.get("HTTPHeaders", {}).items()}
    status = int(about.get("HTTPStatusCode") or 500)
    words = json.dumps({"message": f"{said} ({code})"}).encode()
    answer = Answer(call, status, headers, words, secrets)
    if code in _NO_BUCKET:
        return _no_bucket()
    if status == 404:
        return _NotThereError(f"{call.path} is not in the archive's store.")
    if code in _TIME_CAN_MEND:
        return TransientError(
            f"The archive's store asks to wait ({call}). It says: {answer.message}", answer.retry_after
        )
    if code in _TO_MEND or status in {301, 307}:
        return _RefusedError(
            f"The archive's store does not take the call ({call}): check the keys, region and endpoint in "
            f"NX_ARCHIVE_OPTIONS. It says: {answer.message}"
        )
    meaning = refusal(answer)
    return _RefusedError(str(meaning)) if isinstance(meaning, ConfigurationError) else meaning


def _no_bucket() -> ExportError:
    return _RefusedError("The archive's bucket is not there: check NX_ARCHIVE_URL, or make the bucket.")


def _broken_off() -> tuple[type[BaseException], ...]:
    """The errors of calls that got no whole answer."""
    there = [(module, name) for module, name in _BROKEN_OFF if _is_installed(module.partition(".")[0])]
    return (OSError, *(getattr(importlib.import_module(module), name) for module, name in there))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _texts(value: Any) -> Iterator[str]:
    """Every text in the options: any of them may be a secret."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
    elif isinstance(value, str) and len(value) >= _SHORTEST_SECRET:
        yield value


def _raise(error: ExportError) -> NoReturn:
    raise error
