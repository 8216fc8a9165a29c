"""The calls about an eLabFTW instance, its user and team; `service` adds them to the table of routes."""

import re
from collections.abc import Sequence
from typing import Any

from nexus_tasks.sandbox.services.elabftw.installation import READ_ONLY_API_KEY, TELLS_TEAM_OF_KEY, Installation
from nexus_tasks.sandbox.services.elabftw.objects import CATEGORIES, NORMAL, STATUSES, Database, now
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Handler

TEAM = {"id": 1, "name": "Sandbox team"}


class InstanceCalls:
    """What a client asks about the place that it writes to."""

    def __init__(self, database: Database, installation: Installation) -> None:
        self._database = database
        self._installation = installation

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", "/api/v2/info/?", self._info),
            ("GET", "/api/v2/users/(?:me|1)", self._user),
            ("GET", "/api/v2/apikeys/?", self._keys),
            ("GET", "/api/v2/teams/(?:current|1)/?", self._team),
            ("GET", "/api/v2/teams/(?:current|1)/experiments_categories/?", self._categories),
            ("GET", "/api/v2/teams/(?:current|1)/experiments_status/?", self._statuses),
        ]

    def _info(self, _request: Request, _match: re.Match[str]) -> Response:
        major, minor, patch = (
            self._installation.version // 10_000,
            self._installation.version // 100 % 100,
            self._installation.version % 100,
        )
        stored = sum(
            len(upload.content) for each in self._database.experiments.values() for upload in each.uploads.values()
        )
        return Response.json(
            200,
            {
                "elabftw_version": f"{major}.{minor}.{patch}",
                "elabftw_version_int": self._installation.version,
                "ts_balance": 0,
                "all_users_count": 1,
                "active_users_count": 1,
                "items_count": 0,
                "teams_count": 1,
                "experiments_count": len(self._database.experiments),
                "experiments_timestamped_count": 0,
                "uploads_filesize_sum": stored,
                "uploads_filesize_sum_formatted": f"{stored / 1024:.2f} KiB",
            },
        )

    def _user(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(
            200,
            {
                "userid": 1,
                "firstname": "Sandbox",
                "lastname": "User",
                "initials": "SU",
                "email": "user@sandbox.invalid",
                "fullname": "Sandbox User",
                "orcid": None,
                "sig_pubkey": None,
                "team": TEAM["id"],
                "teams": [{**TEAM, "is_admin": 0, "is_owner": 0, "is_archived": 0}],
            },
        )

    def _keys(self, _request: Request, _match: re.Match[str]) -> Response:
        """The keys of the user; a key begins with its id."""
        keys = [
            {
                "id": int(key.partition("-")[0]),
                "name": name,
                "created_at": "2026-01-05 08:00:00",
                "last_used_at": now(),
                "hash": "$2y$10$" + "x" * 53,
                "can_write": can_write,
            }
            for key, name, can_write in (
                (self._installation.api_key, "writes", 1),
                (READ_ONLY_API_KEY, "reads only", 0),
            )
        ]
        if self._installation.version >= TELLS_TEAM_OF_KEY:
            keys = [{**key, "team": TEAM["id"], "team_name": TEAM["name"]} for key in keys]
        return Response.json(200, keys)

    def _team(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(
            200,
            {
                **TEAM,
                "user_create_tag": int(self._installation.user_create_tag),
                "force_exp_tpl": int(self._installation.force_exp_tpl),
                "created_at": "2026-01-05 08:00:00",
                "visible": 1,
                "announcement": None,
            },
        )

    def _categories(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(200, _listed_with_colours(CATEGORIES))

    def _statuses(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(200, _listed_with_colours(STATUSES))


def _listed_with_colours(titles: dict[int, str]) -> list[dict[str, Any]]:
    return [
        {"id": number, "title": title, "color": "29aeb9", "is_default": 0, "ordering": number, "state": NORMAL}
        for number, title in titles.items()
    ]
