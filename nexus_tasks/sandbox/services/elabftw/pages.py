"""The pages on which a person sees what the eLabFTW stand-in holds; `service` adds them to the table of routes."""

import re
from collections.abc import Sequence

from nexus_tasks.sandbox.services import pages
from nexus_tasks.sandbox.services.elabftw.answers import download
from nexus_tasks.sandbox.services.elabftw.objects import (
    ARCHIVED,
    CATEGORIES,
    DELETED,
    NORMAL,
    STATUSES,
    Database,
    Experiment,
)
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.pages import Html
from nexus_tasks.sandbox.services.service import Handler


class Pages:
    """All experiments, one experiment, and a file of it; `name` is the service's."""

    def __init__(self, name: str, database: Database) -> None:
        self._name = name
        self._database = database

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", "/", self._index_page),
            ("GET", "/experiments.php", self._experiment_page),
            ("GET", "/app/download.php", self._download_page),
        ]

    def _index_page(self, _request: Request, _match: re.Match[str]) -> Response:
        rows = [
            (
                _unbroken(each.id),
                pages.link(f"/experiments.php?mode=view&id={each.id}", each.title),
                _tags(each),
                _unbroken(STATUSES.get(each.status or 0, "")),
                sum(upload.state == NORMAL for upload in each.uploads.values()),
                _unbroken(each.created),
            )
            for each in reversed(self._database.experiments.values())
            if each.state != DELETED
        ]
        headings = ("Id", "Title", "Tags", "Status", "Files", "Created (UTC)")
        experiments = pages.table(headings, rows, empty="No experiment has arrived yet.")
        return Response.html(
            200, pages.page(self._name, "Experiments", pages.element("h1", "Experiments"), experiments)
        )

    def _experiment_page(self, request: Request, _match: re.Match[str]) -> Response:
        number = request.parameter("id") or ""
        experiment = self._database.experiments.get(int(number)) if number.isdecimal() else None
        if experiment is None or experiment.state == DELETED:
            sentence = pages.element("p", "There is no such experiment.", class_="empty")
            return Response.html(404, pages.page(self._name, "No experiment", sentence))
        files = [
            (
                pages.link(f"/app/download.php?id={upload.id}", upload.real_name),
                upload.comment or "",
                pages.size(len(upload.content)),
                pages.element("code", upload.sha256[:16] + "…"),
            )
            for upload in experiment.uploads.values()
            if upload.state == NORMAL
        ]
        fields = [
            (name, Html.join_all([_shown(value), " ", _described(experiment, name)]))
            for name, value in experiment.extra_fields.items()
        ]
        about = f"experiment {experiment.id}, created {experiment.created} UTC, changed {experiment.modified} UTC"
        if experiment.category is not None:
            about += f", category {CATEGORIES.get(experiment.category, experiment.category)}"
        if experiment.status is not None:
            about += f", status {STATUSES[experiment.status]}"
        archived = sum(upload.state == ARCHIVED for upload in experiment.uploads.values())
        return Response.html(
            200,
            pages.page(
                self._name,
                experiment.title,
                pages.element("h1", experiment.title),
                pages.element("p", _tags(experiment)),
                pages.element("p", about, class_="dim"),
                pages.frame(experiment.body, "Main text"),
                pages.element("h2", "Extra fields"),
                pages.pairs(fields) if fields else pages.element("p", "None.", class_="dim"),
                pages.element("h2", "Attached files"),
                pages.table(("Name", "Comment", "Size", "SHA-256"), files, empty="None."),
                pages.element("p", f"Replaced or archived files: {archived}", class_="dim") if archived else "",
            ),
        )

    def _download_page(self, request: Request, _match: re.Match[str]) -> Response:
        for experiment in self._database.experiments.values():
            for upload in experiment.uploads.values():
                if str(upload.id) == request.parameter("id") and upload.state != DELETED:
                    return download(upload, "attachment", "application/octet-stream")
        return Response.html(404, pages.page(self._name, "No file", "There is no such file."))


def _tags(experiment: Experiment) -> Html:
    return Html.join_all(pages.element("span", tag, class_="tag") for tag in experiment.tags)


def _unbroken(value: object) -> Html:
    return pages.element("span", value, style="white-space: nowrap")


def _shown(value: str) -> Html:
    return Html(pages.html(pages.web_link(value)))


def _described(experiment: Experiment, name: str) -> Html:
    """What goes with an extra field's value: its unit and its description."""
    field = (experiment.metadata or {})["extra_fields"][name]
    said = " ".join(str(field[part]) for part in ("unit", "description") if field.get(part))
    return pages.element("span", said, class_="dim")
