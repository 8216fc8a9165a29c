"""The calls about CDCS's users, workspaces and templates, and the site itself; `service` adds them to the routes."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from nexus_tasks.sandbox.services.cdcs.answers import message, refuse_unless_administrator
from nexus_tasks.sandbox.services.cdcs.installation import ANY_EXPERIMENT_XSD, Installation
from nexus_tasks.sandbox.services.cdcs.objects import (
    CURRENT_VERSION,
    OLD_VERSION,
    OTHER_TEMPLATE,
    PUBLIC_WORKSPACE,
    READ_ONLY_WORKSPACE,
    TEMPLATE_TITLE,
    WORKSPACE_TITLE,
    Database,
)
from nexus_tasks.sandbox.services.cdcs.parameters import read_values
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Handler

CORE_VERSION = "2.23.0"
MAX_USERNAME = 150  # characters


class SiteCalls:
    """What a client asks about the site that it writes to, and the users that it may make."""

    def __init__(self, database: Database, installation: Installation) -> None:
        self._database = database
        self._installation = installation

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", "/rest/user/", self._list_users),
            ("POST", "/rest/user/", self._create_user),
            ("GET", "/rest/workspace/read_access.*", self._workspaces),  # its pattern has no end over there, either
            ("GET", "/rest/workspace/write_access.*", self._writable_workspaces),
            ("GET", "/rest/core-settings/", self._core_settings),
            ("GET", "/rest/template-version-manager/global/", self._template_managers),
            ("GET", r"/rest/template/(\d+)/", self._template),
        ]

    # --- users

    def _list_users(self, _request: Request, _match: re.Match[str]) -> Response:
        refuse_unless_administrator(self._installation)
        return Response.json(200, [self._user(number) for number in self._database.users])

    def _create_user(self, request: Request, _match: re.Match[str]) -> Response:
        refuse_unless_administrator(self._installation)
        values = read_values(request)
        errors: dict[str, list[str]] = {
            name: ["This field is required."] for name in ("username", "password") if name not in values
        }
        name = str(values.get("username", ""))
        if "username" in values and not re.fullmatch(r"[\w.@+-]+", name):
            errors["username"] = [
                "Enter a valid username. This value may contain only letters, numbers, and @/./+/-/_ characters."
            ]
        elif len(name) > MAX_USERNAME:
            errors["username"] = [f"Ensure this field has no more than {MAX_USERNAME} characters."]
        elif name in self._database.users.values():
            errors["username"] = ["A user with that username already exists."]
        if errors:
            return Response.json(400, errors)  # bare, unlike the errors about records
        number = max(self._database.users) + 1
        self._database.users[number] = name
        return Response.json(201, self._user(number))

    def _user(self, number: int) -> dict[str, Any]:
        return {"id": number, "username": self._database.users[number], "email": ""}

    # --- workspaces, templates and the site

    def _workspaces(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(
            200,
            [
                {"id": READ_ONLY_WORKSPACE, "title": "Retired Instruments", "owner": "1", "is_public": False},
                {"id": PUBLIC_WORKSPACE, "title": WORKSPACE_TITLE, "owner": None, "is_public": True},
            ],
        )

    def _writable_workspaces(self, _request: Request, _match: re.Match[str]) -> Response:
        # Rights to publish are not among these: a user who may publish is told of no public workspace here.
        public = {"id": PUBLIC_WORKSPACE, "title": WORKSPACE_TITLE, "owner": None, "is_public": True}
        return Response.json(200, [public] if self._installation.administrator else [])

    def _core_settings(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(
            200,
            {
                "core_version": CORE_VERSION,
                "database": {"engine": "PostgreSQL", "version": 160000},
                "mongodb": {"data_indexing": False, "version": None},
            },
        )

    def _template_managers(self, request: Request, _match: re.Match[str]) -> Response:
        managers = [
            {
                "id": 2,
                "title": "Retired Instrument Schema",
                "user": None,
                "is_disabled": False,
                "versions": [str(OTHER_TEMPLATE)],
                "current": str(OTHER_TEMPLATE),
                "disabled_versions": [],
            },
            {
                "id": 6,
                "title": TEMPLATE_TITLE,
                "user": None,
                "is_disabled": False,
                "versions": [str(OLD_VERSION), str(CURRENT_VERSION)],
                "current": str(CURRENT_VERSION),
                "disabled_versions": [],
            },
        ]
        title = request.parameter("title")
        return Response.json(200, [each for each in managers if title in (None, each["title"])])

    def _template(self, _request: Request, match: re.Match[str]) -> Response:
        number = int(match[1])
        if number not in {OTHER_TEMPLATE, OLD_VERSION, CURRENT_VERSION}:
            return message(404, "Template not found.")
        strict = number == CURRENT_VERSION and self._installation.schema is not None
        content = self._installation.xsd if strict else ANY_EXPERIMENT_XSD
        return Response.json(
            200,
            {
                "id": number,
                "user": None,
                "filename": "nexus-experiment.xsd",
                "checksum": None,
                "content": content,
                "hash": hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest(),
                "format": "XSD" if strict else "JSON",
                "dependencies": [],
            },
        )
