"""The calls about eLabFTW's experiments and their tags; `service` adds them to the table of routes."""

import json
import re
from collections.abc import Sequence
from typing import Any

from nexus_tasks.sandbox.services.elabftw.answers import created, refuse
from nexus_tasks.sandbox.services.elabftw.html_filter import purified
from nexus_tasks.sandbox.services.elabftw.installation import CREATES_WITH_BODY, Installation
from nexus_tasks.sandbox.services.elabftw.objects import ARCHIVED, DELETED, NORMAL, STATUSES, Database, Experiment, now
from nexus_tasks.sandbox.services.elabftw.parameters import json_body, numbers
from nexus_tasks.sandbox.services.elabftw.search import extra_field_search, like
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Handler

EXPERIMENT = r"/api/v2/experiments/(\d+)"
DEFAULT_LIMIT = 15  # experiments in a list when the client does not say
MAX_TITLE = 255  # characters
MAX_TAG = 255  # characters; the database refuses a longer one


class ExperimentCalls:
    """Making, finding, reading, changing and deleting experiments."""

    def __init__(self, database: Database, installation: Installation) -> None:
        self._database = database
        self._installation = installation

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", "/api/v2/experiments/?", self._list),
            ("POST", "/api/v2/experiments/?", self._create),
            ("GET", EXPERIMENT, self._read),
            ("PATCH", EXPERIMENT, self._update),
            ("DELETE", EXPERIMENT, self._delete),
            ("GET", EXPERIMENT + "/tags", self._list_tags),
            ("POST", EXPERIMENT + "/tags", self._add_tag),
        ]

    def _create(self, request: Request, _match: re.Match[str]) -> Response:
        values = json_body(request)
        if self._installation.force_exp_tpl:  # it has no templates
            refuse(400, "Experiments must use a template!")
        experiment = self._database.new_experiment()
        _set_title_and_numbers(experiment, values)
        if self._installation.version >= CREATES_WITH_BODY:
            if values.get("body") is not None:
                experiment.body = purified(values["body"])
            metadata = values.get("metadata")
            if metadata is not None and not isinstance(metadata, dict):
                refuse(400, "metadata must be an object.")
            experiment.metadata = metadata
        tags = values.get("tags") or []
        if not isinstance(tags, list):
            refuse(400, "tags must be a list.")
        self._database.store(experiment)
        for tag in tags:  # after the experiment is there: a refused tag leaves it behind
            self._tag(experiment, tag)
        return created(f"/api/v2/experiments/{experiment.id}")

    def _list(self, request: Request, _match: re.Match[str]) -> Response:
        states = numbers(request.parameter("state") or "1", "state")
        (limit,) = numbers(request.parameter("limit") or str(DEFAULT_LIMIT), "limit")
        (offset,) = numbers(request.parameter("offset") or "0", "offset")
        found = [each for each in reversed(self._database.experiments.values()) if each.state in states]
        if request.parameter("extended"):
            name, value, strict = extra_field_search(request.parameter("extended") or "")
            pattern = like(value if strict else f"%{value}%")
            found = [each for each in found if pattern.fullmatch(each.extra_fields.get(name) or "")]
        if request.parameter("q"):
            pattern = like(f"%{request.parameter('q')}%")
            found = [each for each in found if pattern.fullmatch(each.title) or pattern.fullmatch(each.body)]
        return Response.json(200, [each.as_json(whole=False) for each in found[offset : offset + limit]])

    def _read(self, _request: Request, match: re.Match[str]) -> Response:
        return Response.json(200, experiment_of(self._database, match).as_json(whole=True))

    def _update(self, request: Request, match: re.Match[str]) -> Response:
        values = json_body(request)
        if values.get("action") == "lock":
            experiment = experiment_of(self._database, match)
            experiment.locked = not experiment.locked
            return Response.json(200, experiment.as_json(whole=True))
        experiment = writable_experiment(self._database, match)
        metadata = values.get("metadata")
        if metadata is not None:
            if not isinstance(metadata, str):
                refuse(400, "metadata must be a JSON string.")
            try:
                decoded = json.loads(metadata)
            except ValueError:
                refuse(400, "metadata is not valid JSON.")
            if not isinstance(decoded, dict):
                refuse(400, "metadata must hold an object.")
            metadata = decoded
        body = purified(values["body"]) if values.get("body") is not None else None
        state = values.get("state", experiment.state)
        if state not in {NORMAL, ARCHIVED, DELETED}:
            refuse(400, "state must be 1, 2 or 3.")
        _set_title_and_numbers(experiment, values)
        experiment.state = state
        if body is not None:
            experiment.body = body
        if "metadata" in values:
            experiment.metadata = metadata
        experiment.modified = now()
        return Response.json(200, experiment.as_json(whole=True))

    def _delete(self, _request: Request, match: re.Match[str]) -> Response:
        experiment = writable_experiment(self._database, match)
        experiment.state = DELETED
        for upload in experiment.uploads.values():
            upload.state = DELETED
        return Response(204)

    def _list_tags(self, _request: Request, match: re.Match[str]) -> Response:
        tags = enumerate(experiment_of(self._database, match).tags, start=1)
        return Response.json(200, [{"tag_id": number, "tag": tag, "is_favorite": 0} for number, tag in tags])

    def _add_tag(self, request: Request, match: re.Match[str]) -> Response:
        experiment = writable_experiment(self._database, match)
        values = json_body(request)
        tags = values["tags"] if "tags" in values else [values.get("tag")]
        if not isinstance(tags, list):
            refuse(400, "tags must be a list.")
        for tag in tags:
            self._tag(experiment, tag)
        return created(f"/api/v2/experiments/{experiment.id}/tags/{len(experiment.tags)}")

    def _tag(self, experiment: Experiment, tag: Any) -> None:
        text = str(tag).replace("\\", "").replace("|", " ").strip() if isinstance(tag, str) else ""
        if not text:
            refuse(400, "Input is too short! (minimum: 1)")
        if not self._installation.user_create_tag and all(
            text not in each.tags for each in self._database.experiments.values()
        ):
            refuse(400, "Users cannot create tags.")
        if len(text) > MAX_TAG:
            refuse(500, "Data too long for column 'tag' at row 1")
        if text not in experiment.tags:
            experiment.tags.append(text)


def experiment_of(database: Database, match: re.Match[str]) -> Experiment:
    """The experiment that a path names, also a deleted one; raises `Refused`."""
    experiment = database.experiments.get(int(match[1]))
    if experiment is None:
        refuse(404, "Nothing to show with this id.")
    return experiment


def writable_experiment(database: Database, match: re.Match[str]) -> Experiment:
    """The experiment that a path names, if it may be changed; raises `Refused`."""
    experiment = experiment_of(database, match)
    if experiment.state != NORMAL:
        refuse(422, "This entry is deleted or archived and cannot be modified.")
    if experiment.locked:
        refuse(401, "Sorry, you have insufficient permissions for this action.")
    return experiment


def _set_title_and_numbers(experiment: Experiment, values: dict[str, Any]) -> None:
    given = {name: values[name] for name in ("category", "status") if name in values}
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not str(value).isdecimal()):
            refuse(400, f"{name} must be a positive number.")
    if values.get("title") is not None:
        title = re.sub(r"\r\n|\r|\n", " ", str(values["title"])).strip()
        experiment.title = title[:MAX_TITLE] or "Untitled"
    status = int(given.get("status") or 0)
    if status and status not in STATUSES:  # a foreign key; a category has none, so any number is kept
        refuse(500, "Cannot add or update a child row: a foreign key constraint fails (`fk_experiments_status_id`)")
    for name, value in given.items():
        setattr(experiment, name, int(value) or None if value is not None else None)
