"""An object store that keeps the archive (`s3://bucket/…`); opened by `store`.

fsspec opens it, an extra; an object there is whole or not there. Whatever the libraries raise leaves this module as one
of the contract's exceptions, without addresses and secrets.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.archive.store import is_installed
from nexus_tasks.exporters.base import Check, ConfigurationError, ExportError, PermanentError, TransientError
from nexus_tasks.exporters.http import call_deadline
from nexus_tasks.exporters.http_failures import Answer, Call, Service, broken_call, plain_message, refusal

_SERVICE = Service("The archive's store", "the endpoint in NX_ARCHIVE_OPTIONS", "the keys in NX_ARCHIVE_OPTIONS")
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


class ObjectStore:
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
                raise _no_bucket() from None
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
    there = [(module, name) for module, name in _BROKEN_OFF if is_installed(module.partition(".")[0])]
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
