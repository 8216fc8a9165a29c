"""The calls about the files of eLabFTW's experiments; `service` adds them to the table of routes."""

import mimetypes
import re
from collections.abc import Sequence
from pathlib import PurePath

from nexus_tasks.sandbox.services.elabftw.answers import created, download, refuse
from nexus_tasks.sandbox.services.elabftw.experiments import EXPERIMENT, experiment_of, writable_experiment
from nexus_tasks.sandbox.services.elabftw.objects import ARCHIVED, DELETED, NORMAL, Database, Experiment, Upload
from nexus_tasks.sandbox.services.elabftw.parameters import json_body, numbers
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.multipart import Part, read_parts
from nexus_tasks.sandbox.services.service import Handler


class UploadCalls:
    """Attaching, listing, reading, replacing, changing and deleting files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", EXPERIMENT + "/uploads", self._list_uploads),
            ("POST", EXPERIMENT + "/uploads", self._add_upload),
            ("GET", EXPERIMENT + r"/uploads/(\d+)", self._read_upload),
            ("POST", EXPERIMENT + r"/uploads/(\d+)", self._replace_upload),
            ("PATCH", EXPERIMENT + r"/uploads/(\d+)", self._update_upload),
            ("DELETE", EXPERIMENT + r"/uploads/(\d+)", self._delete_upload),
        ]

    def _list_uploads(self, request: Request, match: re.Match[str]) -> Response:
        experiment = experiment_of(self._database, match)
        states = numbers(request.parameter("state") or "1", "state")
        shown = [each.as_json(experiment.id) for each in experiment.uploads.values() if each.state in states]
        return Response.json(200, shown[::-1])  # the newest first

    def _add_upload(self, request: Request, match: re.Match[str]) -> Response:
        return self._save_upload(writable_experiment(self._database, match), request)

    def _replace_upload(self, request: Request, match: re.Match[str]) -> Response:
        experiment = writable_experiment(self._database, match)
        old = self._upload(experiment, match)
        response = self._save_upload(experiment, request, keeps_comment=False)
        old.state = NORMAL if old.state == ARCHIVED else ARCHIVED  # one that was archived already comes back
        return response

    def _save_upload(self, experiment: Experiment, request: Request, *, keeps_comment: bool = True) -> Response:
        try:
            parts = read_parts(request)
        except ValueError as error:
            refuse(400, str(error))
        file = parts.get("file")
        if file is None or not file.filename:
            refuse(400, "No file was sent in the field file.")
        sent = parts.get("comment", Part(b"", None)).content.decode("utf-8", "replace")
        comment = sent or None if keeps_comment else None  # a replacement has none, up to 5.3.11 at least
        upload = self._database.attach(experiment, PurePath(file.filename).name, file.content, comment)
        return created(f"/api/v2/experiments/{experiment.id}/uploads/{upload.id}")

    def _read_upload(self, request: Request, match: re.Match[str]) -> Response:
        experiment = experiment_of(self._database, match)
        upload = self._upload(experiment, match)
        if request.parameter("format") == "binary":
            kind = mimetypes.guess_type(upload.real_name)[0] or "application/octet-stream"
            return download(upload, "inline", kind)
        return Response.json(200, upload.as_json(experiment.id))

    def _update_upload(self, request: Request, match: re.Match[str]) -> Response:
        experiment = writable_experiment(self._database, match)
        upload = self._upload(experiment, match)
        values = json_body(request)
        upload.real_name = str(values.get("real_name", upload.real_name))
        upload.comment = values.get("comment", upload.comment)
        upload.state = values.get("state", upload.state)
        return Response.json(200, upload.as_json(experiment.id))

    def _delete_upload(self, _request: Request, match: re.Match[str]) -> Response:
        self._upload(writable_experiment(self._database, match), match).state = DELETED
        return Response(204)

    def _upload(self, experiment: Experiment, match: re.Match[str]) -> Upload:
        upload = experiment.uploads.get(int(match[2]))
        if upload is None:  # a deleted one is still there, in its state
            refuse(404, "Nothing to show with this id.")
        return upload
