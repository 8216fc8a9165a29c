"""What eLabFTW's OpenAPI file says about the calls that went to the stand-in; used by `test_elabftw_openapi.py`.

The file is not part of the project. Where it contradicts the server, `CONTRADICTIONS` and `FURTHER` say how, and the
loaded document is mended in that one place; nothing else of it is changed or left out.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from werkzeug.datastructures import Headers, ImmutableMultiDict

from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.server import StandInServer

# 5.3.11's `apidoc/v2/openapi.yaml`, from eLabFTW's repository; by default it is looked for beside the project.
FILE_VARIABLE = "NX_TEST_ELABFTW_OPENAPI"
_BESIDE = Path(__file__).resolve().parents[4] / "shared" / "specs" / "elabftw-openapi-v2.yaml"
FILE = Path(os.environ.get(FILE_VARIABLE, _BESIDE))
HOST = "https://eln.example.org"  # one of the servers that the file names

Document = dict[str, Any]


def _metadata_is_a_text(document: Document) -> None:
    document["components"]["schemas"]["entity_editable"]["properties"]["metadata"] = {
        "type": "string",
        "nullable": True,
    }


def _the_code_of_an_error_is_a_number(document: Document) -> None:
    document["components"]["schemas"]["Error"]["properties"]["code"]["type"] = "integer"


def _no_null_where_null_is_not_allowed(document: Document) -> None:
    for schema in _mappings(document):
        if "default" in schema and schema["default"] is None and not schema.get("nullable"):
            del schema["default"]


def _info_has_its_first_form(document: Document) -> None:
    content = document["paths"]["/info"]["get"]["responses"]["200"]["content"]["application/json"]
    content["schema"] = content["schema"]["oneOf"][0]


def _numbers_as_texts(document: Document) -> None:
    for schema in _mappings(document):
        if schema.get("type") == "string" and isinstance(schema.get("enum"), list):
            schema["enum"] = [str(each) for each in schema["enum"]]


def _an_upload_may_have_no_comment_and_no_hash(document: Document) -> None:
    for name in ("comment", "hash"):
        document["components"]["schemas"]["upload"]["properties"][name]["nullable"] = True


def _the_own_team_is_current(document: Document) -> None:
    of_team = next(each for each in document["paths"]["/teams/{id}"]["parameters"] if each["name"] == "id")
    for kind in ("experiments_categories", "experiments_status"):
        document["paths"][f"/teams/{{id}}/{kind}"]["parameters"] = [of_team]


def _refusals_that_are_not_listed(document: Document) -> None:
    paths, refusals = document["paths"], "#/components/responses/"
    paths["/experiments"]["get"]["responses"]["400"] = {"$ref": f"{refusals}BadRequest"}
    paths["/experiments"]["post"]["responses"]["500"] = {"$ref": f"{refusals}InternalServerError"}
    paths["/info"]["get"]["responses"]["403"] = {"$ref": f"{refusals}Forbidden"}
    for path in ("/{entity_type}/{id}/uploads", "/{entity_type}/{id}/uploads/{subid}", "/{entity_type}/{id}/tags"):
        paths[path]["post"]["responses"]["422"] = {"$ref": f"{refusals}Unprocessable"}


def _an_experiment_is_made_with_its_tags(document: Document) -> None:
    content = document["paths"]["/experiments"]["post"]["requestBody"]["content"]
    content["application/json"]["schema"]["properties"]["tags"] = {"type": "array", "items": {"type": "string"}}


CONTRADICTIONS: dict[str, Callable[[Document], None]] = {
    "an experiment is changed and read with its metadata as a JSON text, the file has an object": _metadata_is_a_text,
    "the code of an error is a number, the file has a text": _the_code_of_an_error_is_a_number,
    "some values have the default null although they cannot be null": _no_null_where_null_is_not_allowed,
    "any object fits the second form of /info, which is for ?hist; so none fits exactly one": _info_has_its_first_form,
}

# Further ones, seen in the server's source (5.0.4 to 5.3.11) and in its makers' own client.
FURTHER: dict[str, Callable[[Document], None]] = {
    "some texts may only be the numbers 0 and 1, which no text is": _numbers_as_texts,
    "a replaced upload has the comment null, a very large one the hash null; the file has texts": (
        _an_upload_may_have_no_comment_and_no_hash
    ),
    "`current` names the own team below /teams/current as well, the file has numbers there": _the_own_team_is_current,
    "POST /experiments takes tags, and the client sends them; the file does not name them": (
        _an_experiment_is_made_with_its_tags
    ),
    "a search that is not understood, an unknown status, what is deleted, and 5.2 without a key are refused "
    "with 400, 500, 422 and 403; the file does not list these": _refusals_that_are_not_listed,
}


@dataclass
class WireRequest:
    """A request that the stand-in got, as openapi-core reads one."""

    request: Request
    parameters: RequestParameters = field(init=False)
    host_url: str = HOST

    def __post_init__(self) -> None:
        query = [(name, value) for name, values in self.request.query.items() for value in values]
        self.parameters = RequestParameters(
            query=ImmutableMultiDict(query), header=Headers(list(self.request.headers.items()))
        )

    @property
    def path(self) -> str:
        return self.request.path

    @property
    def method(self) -> str:
        return self.request.method.lower()

    @property
    def body(self) -> bytes | None:
        return self.request.body or None

    @property
    def content_type(self) -> str:
        return self.request.content_type


@dataclass
class WireResponse:
    """An answer of the stand-in, as openapi-core reads one."""

    response: Response

    @property
    def status_code(self) -> int:
        return self.response.status

    @property
    def data(self) -> bytes:
        return self.response.body

    @property
    def content_type(self) -> str:
        return self.response.content_type or ""

    @property
    def headers(self) -> Headers:
        return Headers(list(self.response.headers))


@dataclass
class Exchange:
    """One call and its answer."""

    request: Request
    response: Response

    def __str__(self) -> str:
        return f"{self.request.method} {self.request.path} → {self.response.status}"


class Recorder:
    """Keeps every call of the interface that a stand-in answers."""

    def __init__(self, server: StandInServer) -> None:
        self.exchanges: list[Exchange] = []
        self._answer = server.answer

    def answer(self, request: Request) -> Response:
        response = self._answer(request)
        if request.path.startswith("/api/"):
            self.exchanges.append(Exchange(request, response))
        return response


class Contract:
    """The OpenAPI file."""

    def __init__(self) -> None:
        document: Document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        for mend in (*CONTRADICTIONS.values(), *FURTHER.values()):
            mend(document)
        self.document = document
        self.openapi = OpenAPI.from_dict(document)

    def check_request(self, exchange: Exchange) -> None:
        """Raise what openapi-core raises for a request that is not as the file says."""
        self.openapi.validate_request(WireRequest(exchange.request))

    def check_response(self, exchange: Exchange) -> None:
        """Raise what openapi-core raises for an answer that is not as the file says."""
        self.openapi.validate_response(WireRequest(exchange.request), WireResponse(exchange.response))

    def path_of(self, exchange: Exchange) -> str:
        """The path of a request as the file writes it."""
        return self._operation(exchange)[0]

    def unknown_names(self, exchange: Exchange) -> set[str]:
        """The query parameters and the fields of a JSON body that the file does not know at the request's path."""
        found = self.openapi.unmarshal_request(WireRequest(exchange.request))
        unknown = set(exchange.request.query) - set(found.parameters.query)
        if exchange.request.content_type == "application/json":
            unknown |= set(json.loads(exchange.request.body or b"{}")) - self._fields(exchange)
        return unknown

    def _fields(self, exchange: Exchange) -> set[str]:
        path, operation = self._operation(exchange)
        body = self._resolved(operation.get("requestBody", {}))
        schema = body.get("content", {}).get("application/json", {}).get("schema", {})
        return set(self._properties(schema)) if path else set()

    def _operation(self, exchange: Exchange) -> tuple[str, dict[str, Any]]:
        called = exchange.request.path.removeprefix("/api/v2").rstrip("/")
        patterns = sorted(self.document["paths"], key=lambda path: path.count("{"))
        for path in patterns:
            if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", path), called):
                return path, self.document["paths"][path].get(exchange.request.method.lower(), {})
        return "", {}

    def _properties(self, schema: dict[str, Any]) -> Iterator[str]:
        schema = self._resolved(schema)
        yield from schema.get("properties", {})
        for each in (part for kind in ("allOf", "anyOf", "oneOf") for part in schema.get(kind, [])):
            yield from self._properties(each)

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            target = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node


def _mappings(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for each in node.values():
            yield from _mappings(each)
    elif isinstance(node, list):
        for each in node:
            yield from _mappings(each)
