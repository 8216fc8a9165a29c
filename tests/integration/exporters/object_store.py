"""S3 on loopback for the archive's tests: moto's server, which checks who calls, with faults in front of it.

moto keeps its objects in this process, so they are still there when the server has been stopped and started.
"""

import json
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

import requests
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

BUCKET = "lab-archive"
PREFIX = "records/2026"
EVERYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
READING = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
# the answer to a call (method, path) in place of the store's, or None
Fault = Callable[[str, str], tuple[int, bytes] | None]


class ObjectStore:
    """One bucket, and two users: one who may do everything, one who may only read."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fault: Fault | None = None
        self._answers_to_lose, self._whose = 0, ""
        self._answers_to_cut, self._cut_whose = 0, ""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)

    def __enter__(self) -> Self:
        self.start()
        requests.post(f"{self.url}/moto-api/reset", timeout=5).raise_for_status()
        self.key, self.secret = self._user("archivist", EVERYTHING)
        self.reader_key, self.reader_secret = self._user("reader", READING)
        requests.post(f"{self.url}/moto-api/reset-auth", data=b"0", timeout=5).raise_for_status()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        requests.post(f"{self.url}/moto-api/reset-auth", data=b"inf", timeout=5).raise_for_status()
        self.stop()

    @property
    def url(self) -> str:
        host, port = self._server.get_host_and_port()
        return f"http://{host}:{port}"

    def start(self) -> None:
        self._server.start()
        self._server._port = self._server.get_host_and_port()[1]  # the same one when it starts again
        server = self._server._server
        assert server is not None
        server.app = self._before(server.app)

    def stop(self) -> None:
        self._server.stop()

    def reset(self) -> None:
        """An empty bucket, and nothing going wrong; the users stay."""
        self.fault, self._answers_to_lose, self._answers_to_cut = None, 0, 0
        self._backend.reset()
        self._backend.create_bucket(BUCKET, "us-east-1")
        self.calls.clear()

    @property
    def address(self) -> str:
        """What `NX_ARCHIVE_URL` says."""
        return f"s3://{BUCKET}/{PREFIX}"

    def options(self, **changed: str) -> str:
        """What `NX_ARCHIVE_OPTIONS` says."""
        return json.dumps({"key": self.key, "secret": self.secret, "endpoint_url": self.url, **changed})

    def held(self) -> dict[str, bytes]:
        """What is in the bucket, by key."""
        return {str(name): bytes(key.value) for name, key in self._backend.get_bucket(BUCKET).keys.items()}

    def put(self, name: str, content: bytes) -> None:
        """What somebody else puts there."""
        self._backend.put_object(BUCKET, name, content)

    def lose_answers(self, number: int, name: str = "") -> None:
        """Carry out so many writes of what `name` ends the key of, and answer nothing of use."""
        self._answers_to_lose, self._whose = number, name

    def cut_answers(self, number: int, name: str = "") -> None:
        """Break off so many readings, of what `name` ends the path of, in the middle of the answer."""
        self._answers_to_cut, self._cut_whose = number, name

    @property
    def writes(self) -> list[str]:
        return [call for call in self.calls if call.startswith("PUT ")]

    @property
    def _backend(self) -> Any:
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def _user(self, name: str, statement: dict[str, Any]) -> tuple[str, str]:
        iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
        iam.create_user(region_name="us-east-1", user_name=name)
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(name, "s3", policy)
        key = iam.create_access_key(user_name=name)
        return key.access_key_id, key.secret_access_key

    def _before(self, app: WSGI) -> WSGI:
        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            if path.startswith("/moto-api"):
                return app(environ, start_response)
            listing = "?list" if "list-type" in parse_qs(environ["QUERY_STRING"]) else ""
            self.calls.append(f"{method} {path}{listing}")
            fault = self.fault(method, path) if self.fault is not None else None
            if fault is not None:
                start_response(f"{fault[0]} Fault", [("Content-Type", "application/xml")])
                return [fault[1]]
            if method == "PUT" and self._answers_to_lose and path.endswith(self._whose):
                self._answers_to_lose -= 1
                list(app(environ, lambda *_: None))
                start_response("504 Gateway Timeout", [("Content-Type", "text/html")])
                return [b"<html>504</html>"]
            if method == "GET" and self._answers_to_cut and path.endswith(self._cut_whose):
                self._answers_to_cut -= 1
                content = b"".join(app(environ, start_response))  # which has promised the whole length
                return [content[: len(content) // 2]]
            return app(environ, start_response)

        return answer
