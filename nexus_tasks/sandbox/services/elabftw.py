"""A stand-in for eLabFTW: experiments, tags and uploads of its REST interface v2, as strict as the service.

The behaviour is that of 5.3.11, or of an older release given as `version`; `StandIns` starts it.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, ClassVar, NoReturn
from urllib.parse import quote

from lxml import etree
from lxml import html as lxml_html

from nexus_tasks.sandbox.services import pages
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.multipart import Part, read_parts
from nexus_tasks.sandbox.services.pages import Html
from nexus_tasks.sandbox.services.service import Handler, Refused, Service

VERSION = 50311  # 5.3.11
CREATES_WITH_BODY = 50200  # the release from which POST takes body and metadata
PUBLIC_BASE = "https://elabftw.sandbox.invalid"  # the host in Location need not be the one that was called
FIRST_EXPERIMENT_ID = 57
FIRST_UPLOAD_ID = 301
DEFAULT_LIMIT = 15  # experiments in a list when the client does not say
MAX_TITLE = 255  # characters
MAX_BODY = 4_120_000  # bytes
MAX_HASHED = 100_000_000  # bytes; a larger upload has no hash

NORMAL, ARCHIVED, DELETED = 1, 2, 3

FORBIDDEN_ELEMENTS = ("script", "style", "iframe", "object", "embed", "form", "link", "meta")

NAMES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Resource Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
}


@dataclass
class Upload:
    """One attached file."""

    id: int
    real_name: str
    content: bytes
    comment: str | None
    created: str
    state: int = NORMAL

    @property
    def sha256(self) -> str:
        """The hash of the content."""
        return hashlib.sha256(self.content).hexdigest()

    def as_json(self, experiment: int) -> dict[str, Any]:
        """The upload as the interface shows it, without its content."""
        return {
            "id": self.id,
            "real_name": self.real_name,
            "long_name": f"{self.sha256[:2]}/{self.sha256}{PurePath(self.real_name).suffix}",
            "comment": self.comment,
            "item_id": experiment,
            "userid": 1,
            "type": "experiments",
            "created_at": self.created,
            "hash": self.sha256 if len(self.content) <= MAX_HASHED else None,
            "hash_algorithm": "sha256",
            "storage": 1,
            "filesize": len(self.content),
            "state": self.state,
            "immutable": 0,
            "fullname": "Sandbox User",
        }


@dataclass
class Experiment:
    """One experiment."""

    id: int
    created: str
    modified: str
    title: str = "Untitled"
    body: str = ""
    category: int | None = None
    status: int | None = None
    metadata: dict[str, Any] | None = None
    tags: list[str] = field(default_factory=list)
    uploads: dict[int, Upload] = field(default_factory=dict)
    state: int = NORMAL

    def as_json(self, *, whole: bool) -> dict[str, Any]:
        """The experiment as the interface shows it; lists leave out body and uploads."""
        metadata = _sorted_as_mysql(self.metadata)
        shown: dict[str, Any] = {
            "id": self.id,
            "title": self.title,
            "date": self.created[:10],
            "created_at": self.created,
            "modified_at": self.modified,
            "userid": 1,
            "fullname": "Sandbox User",
            "team": 1,
            "type": "experiments",
            "page": "experiments.php",
            "category": self.category,
            "status": self.status,
            "state": self.state,
            "locked": 0,
            "rating": 0,
            "custom_id": None,
            "content_type": 1,
            "elabid": f"{self.created[:10].replace('-', '')}-{self.id:08x}",
            "tags": "|".join(self.tags) or None,
            "tags_id": ",".join(str(number) for number in range(1, len(self.tags) + 1)) or None,
            "metadata": None if metadata is None else json.dumps(metadata, ensure_ascii=False),
        }
        if whole:
            shown["metadata_decoded"] = metadata
            shown["body"] = shown["body_html"] = self.body
            shown["uploads"] = [each.as_json(self.id) for each in self.uploads.values() if each.state == NORMAL]
        return shown


class Elabftw(Service):
    """eLabFTW with one team and one user.

    `version` is `elabftw_version_int`: before 50200, POST ignores body and metadata.
    """

    name: ClassVar[str] = "eLabFTW"
    pages: ClassVar[frozenset[str]] = frozenset({"/", "/experiments.php", "/app/download.php"})

    def __init__(self, api_key: str, version: int = VERSION) -> None:
        super().__init__()
        self._api_key = api_key
        self._version = version
        self._next_experiment = FIRST_EXPERIMENT_ID
        self._next_upload = FIRST_UPLOAD_ID
        self._experiments: dict[int, Experiment] = {}

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        experiment = r"/api/v2/experiments/(\d+)"
        return [
            ("GET", "/", self._index_page),
            ("GET", "/experiments.php", self._experiment_page),
            ("GET", "/app/download.php", self._download_page),
            ("GET", "/api/v2/info/?", self._info),
            ("GET", "/api/v2/experiments/?", self._list),
            ("POST", "/api/v2/experiments/?", self._create),
            ("GET", experiment, self._read),
            ("PATCH", experiment, self._update),
            ("DELETE", experiment, self._delete),
            ("GET", experiment + "/tags", self._list_tags),
            ("POST", experiment + "/tags", self._add_tag),
            ("GET", experiment + "/uploads", self._list_uploads),
            ("POST", experiment + "/uploads", self._add_upload),
            ("GET", experiment + r"/uploads/(\d+)", self._read_upload),
            ("POST", experiment + r"/uploads/(\d+)", self._replace_upload),
            ("PATCH", experiment + r"/uploads/(\d+)", self._update_upload),
            ("DELETE", experiment + r"/uploads/(\d+)", self._delete_upload),
        ]

    def authenticate(self, request: Request) -> None:
        """See `Service.authenticate`."""
        given = request.headers.get("Authorization")
        if given is None:
            _refuse(403 if 50200 <= self._version < 50300 else 401, "Access to the API requires a key.")
        if given != self._api_key:
            _refuse(401, "No corresponding API key found!")

    def not_found(self, request: Request) -> Response:
        """See `Service.not_found`."""
        return _error(404, f"There is nothing at {request.path}.")

    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """See `Service.objects`."""
        return [
            {
                "kind": "experiment",
                "id": each.id,
                "title": each.title,
                "category": each.category,
                "status": each.status,
                "state": each.state,
                "tags": each.tags,
                "metadata": each.metadata,
                "sha256": hashlib.sha256(each.body.encode()).hexdigest(),
                "uploads": [
                    {
                        "id": upload.id,
                        "real_name": upload.real_name,
                        "comment": upload.comment,
                        "filesize": len(upload.content),
                        "sha256": upload.sha256,
                        "state": upload.state,
                    }
                    for upload in each.uploads.values()
                ],
            }
            | ({"body": each.body} if content else {})
            for each in self._experiments.values()
        ]

    def reset(self) -> None:
        """See `Service.reset`."""
        self._experiments.clear()

    # --- experiments

    def _info(self, _request: Request, _match: re.Match[str]) -> Response:
        major, minor, patch = self._version // 10_000, self._version // 100 % 100, self._version % 100
        return Response.json(
            200,
            {
                "elabftw_version": f"{major}.{minor}.{patch}",
                "elabftw_version_int": self._version,
                "all_users_count": 1,
                "teams_count": 1,
                "experiments_count": len(self._experiments),
                "uploads_filesize_sum": sum(
                    len(upload.content) for each in self._experiments.values() for upload in each.uploads.values()
                ),
            },
        )

    def _create(self, request: Request, _match: re.Match[str]) -> Response:
        values = _json_body(request)
        now = _now()
        experiment = Experiment(self._next_experiment, now, now)
        _set_title_and_numbers(experiment, values)
        if self._version >= CREATES_WITH_BODY:
            if values.get("body") is not None:
                experiment.body = _purified(values["body"])
            metadata = values.get("metadata")
            if metadata is not None and not isinstance(metadata, dict):
                _refuse(400, "metadata must be an object.")
            experiment.metadata = metadata
        tags = values.get("tags") or []
        if not isinstance(tags, list):
            _refuse(400, "tags must be a list.")
        self._next_experiment += 1
        self._experiments[experiment.id] = experiment
        for tag in tags:  # after the experiment is there: a refused tag leaves it behind
            _add_tag(experiment, tag)
        return _created(f"/api/v2/experiments/{experiment.id}")

    def _list(self, request: Request, _match: re.Match[str]) -> Response:
        states = _numbers(request.parameter("state") or "1", "state")
        (limit,) = _numbers(request.parameter("limit") or str(DEFAULT_LIMIT), "limit")
        (offset,) = _numbers(request.parameter("offset") or "0", "offset")
        found = [each for each in reversed(self._experiments.values()) if each.state in states]
        if request.parameter("extended"):
            name, value, strict = _extra_field_search(request.parameter("extended") or "")
            pattern = like(value if strict else f"%{value}%")
            found = [each for each in found if pattern.fullmatch(_extra_field(each, name) or "")]
        if request.parameter("q"):
            pattern = like(f"%{request.parameter('q')}%")
            found = [each for each in found if pattern.fullmatch(each.title) or pattern.fullmatch(each.body)]
        return Response.json(200, [each.as_json(whole=False) for each in found[offset : offset + limit]])

    def _read(self, _request: Request, match: re.Match[str]) -> Response:
        return Response.json(200, self._experiment(match).as_json(whole=True))

    def _update(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._writable(match)
        values = _json_body(request)
        metadata = values.get("metadata")
        if metadata is not None:
            if not isinstance(metadata, str):
                _refuse(400, "metadata must be a JSON string.")
            try:
                decoded = json.loads(metadata)
            except ValueError:
                _refuse(400, "metadata is not valid JSON.")
            if not isinstance(decoded, dict):
                _refuse(400, "metadata must hold an object.")
            metadata = decoded
        body = _purified(values["body"]) if values.get("body") is not None else None
        state = values.get("state", experiment.state)
        if state not in {NORMAL, ARCHIVED, DELETED}:
            _refuse(400, "state must be 1, 2 or 3.")
        _set_title_and_numbers(experiment, values)
        experiment.state = state
        if body is not None:
            experiment.body = body
        if "metadata" in values:
            experiment.metadata = metadata
        experiment.modified = _now()
        return Response.json(200, experiment.as_json(whole=True))

    def _delete(self, _request: Request, match: re.Match[str]) -> Response:
        self._writable(match).state = DELETED
        return Response(204)

    def _list_tags(self, _request: Request, match: re.Match[str]) -> Response:
        tags = enumerate(self._experiment(match).tags, start=1)
        return Response.json(200, [{"tag_id": number, "tag": tag, "is_favorite": 0} for number, tag in tags])

    def _add_tag(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._writable(match)
        values = _json_body(request)
        tags = values["tags"] if "tags" in values else [values.get("tag")]
        if not isinstance(tags, list):
            _refuse(400, "tags must be a list.")
        for tag in tags:
            _add_tag(experiment, tag)
        return _created(f"/api/v2/experiments/{experiment.id}/tags/{len(experiment.tags)}")

    def _experiment(self, match: re.Match[str]) -> Experiment:
        experiment = self._experiments.get(int(match[1]))
        if experiment is None:
            _refuse(404, "Nothing to show with this id.")
        return experiment

    def _writable(self, match: re.Match[str]) -> Experiment:
        experiment = self._experiment(match)
        if experiment.state != NORMAL:
            _refuse(422, "This entry is deleted or archived and cannot be modified.")
        return experiment

    # --- uploads

    def _list_uploads(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._experiment(match)
        states = _numbers(request.parameter("state") or "1", "state")
        shown = [each.as_json(experiment.id) for each in experiment.uploads.values() if each.state in states]
        return Response.json(200, shown)

    def _add_upload(self, request: Request, match: re.Match[str]) -> Response:
        return self._save_upload(self._writable(match), request)

    def _replace_upload(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._writable(match)
        old = self._upload(experiment, match)
        response = self._save_upload(experiment, request)
        old.state = ARCHIVED
        return response

    def _save_upload(self, experiment: Experiment, request: Request) -> Response:
        try:
            parts = read_parts(request)
        except ValueError as error:
            _refuse(400, str(error))
        file = parts.get("file")
        if file is None or not file.filename:
            _refuse(400, "No file was sent in the field file.")
        comment = parts.get("comment", Part(b"", None)).content.decode("utf-8", "replace") or None
        upload = Upload(self._next_upload, PurePath(file.filename).name, file.content, comment, _now())
        self._next_upload += 1
        experiment.uploads[upload.id] = upload
        return _created(f"/api/v2/experiments/{experiment.id}/uploads/{upload.id}")

    def _read_upload(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._experiment(match)
        upload = self._upload(experiment, match)
        if request.parameter("format") == "binary":
            return _download(upload)
        return Response.json(200, upload.as_json(experiment.id))

    def _update_upload(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._writable(match)
        upload = self._upload(experiment, match)
        values = _json_body(request)
        upload.real_name = str(values.get("real_name", upload.real_name))
        upload.comment = values.get("comment", upload.comment)
        upload.state = values.get("state", upload.state)
        return Response.json(200, upload.as_json(experiment.id))

    def _delete_upload(self, _request: Request, match: re.Match[str]) -> Response:
        self._upload(self._writable(match), match).state = DELETED
        return Response(204)

    def _upload(self, experiment: Experiment, match: re.Match[str]) -> Upload:
        upload = experiment.uploads.get(int(match[2]))
        if upload is None or upload.state == DELETED:
            _refuse(404, "Nothing to show with this id.")
        return upload

    # --- pages

    def _index_page(self, _request: Request, _match: re.Match[str]) -> Response:
        rows = [
            (
                each.id,
                pages.link(f"/experiments.php?mode=view&id={each.id}", each.title),
                _tags(each),
                sum(upload.state == NORMAL for upload in each.uploads.values()),
                each.created,
            )
            for each in reversed(self._experiments.values())
            if each.state != DELETED
        ]
        headings = ("Id", "Title", "Tags", "Files", "Created (UTC)")
        experiments = pages.table(headings, rows, empty="No experiment has arrived yet.")
        return Response.html(200, pages.page(self.name, "Experiments", pages.element("h1", "Experiments"), experiments))

    def _experiment_page(self, request: Request, _match: re.Match[str]) -> Response:
        number = request.parameter("id") or ""
        experiment = self._experiments.get(int(number)) if number.isdecimal() else None
        if experiment is None or experiment.state == DELETED:
            sentence = pages.element("p", "There is no such experiment.", class_="empty")
            return Response.html(404, pages.page(self.name, "No experiment", sentence))
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
        fields = [(name, pages.web_link(value)) for name, value in _extra_fields(experiment).items()]
        about = f"experiment {experiment.id}, created {experiment.created} UTC, changed {experiment.modified} UTC"
        return Response.html(
            200,
            pages.page(
                self.name,
                experiment.title,
                pages.element("h1", experiment.title),
                pages.element("p", _tags(experiment)),
                pages.element("p", about, class_="dim"),
                pages.frame(experiment.body, "Main text"),
                pages.element("h2", "Extra fields"),
                pages.pairs(fields) if fields else pages.element("p", "None.", class_="dim"),
                pages.element("h2", "Attached files"),
                pages.table(("Name", "Comment", "Size", "SHA-256"), files, empty="None."),
            ),
        )

    def _download_page(self, request: Request, _match: re.Match[str]) -> Response:
        for experiment in self._experiments.values():
            for upload in experiment.uploads.values():
                if str(upload.id) == request.parameter("id"):
                    return _download(upload)
        return Response.html(404, pages.page(self.name, "No file", "There is no such file."))


def like(pattern: str) -> re.Pattern[str]:
    r"""A MySQL LIKE pattern: `%` any text, `_` any character, `\` makes the next one ordinary, case ignored."""
    wildcards = {"%": ".*", "_": "."}
    tokens = re.findall(r"\\.|.", pattern, re.DOTALL)
    regex = "".join(wildcards.get(token) or re.escape(token.removeprefix("\\") or token) for token in tokens)
    return re.compile(regex, re.IGNORECASE | re.DOTALL)


def _extra_field_search(query: str) -> tuple[str, str, bool]:
    quoted = r"(?:\"([^\"]*)\"|'([^']*)')"
    match = re.fullmatch(rf"\s*extrafield:(s:)?{quoted}:{quoted}\s*", query)
    if match is None:
        _refuse(400, 'Error in the extended search query: the stand-in knows extrafield:s:"name":"value" only.')
    return match[2] or match[3] or "", match[4] or match[5] or "", match[1] is not None


def _extra_fields(experiment: Experiment) -> dict[str, str]:
    fields = (experiment.metadata or {}).get("extra_fields")
    if not isinstance(fields, dict):
        return {}
    return {name: str(each.get("value") or "") for name, each in fields.items() if isinstance(each, dict)}


def _extra_field(experiment: Experiment, name: str) -> str | None:
    return _extra_fields(experiment).get(name)


def _sorted_as_mysql(value: Any) -> Any:
    """MySQL keeps the keys of a JSON object by length, then by alphabet."""
    if isinstance(value, dict):
        return {key: _sorted_as_mysql(value[key]) for key in sorted(value, key=lambda key: (len(key.encode()), key))}
    if isinstance(value, list):
        return [_sorted_as_mysql(each) for each in value]
    return value


def _purified(body: Any) -> str:
    """The body as HTML that cannot run anything; what comes back is rarely byte for byte what was sent."""
    if not isinstance(body, str):
        _refuse(400, "body must be a string.")
    if len(body.encode()) > MAX_BODY:
        _refuse(400, "Content is too big! Cannot save!")
    if not body.strip():
        return ""
    root = lxml_html.fragment_fromstring(body, create_parent="div")
    for node in list(root.iter(etree.Element)):
        tag = str(node.tag)
        source = (node.get("src") or node.get("href") or "").strip().lower()
        if node is root:
            continue
        if tag in FORBIDDEN_ELEMENTS or (tag == "img" and source.startswith("data:")):
            node.drop_tree()
            continue
        for name in list(node.attrib):
            if str(name).startswith("on") or (name in {"href", "src"} and source.startswith(("javascript:", "data:"))):
                del node.attrib[name]
    inner = str(lxml_html.tostring(root, encoding="unicode"))
    return inner.removeprefix("<div>").removesuffix("</div>")


def _set_title_and_numbers(experiment: Experiment, values: dict[str, Any]) -> None:
    numbers = {name: values[name] for name in ("category", "status") if name in values}
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not str(value).isdecimal()):
            _refuse(400, f"{name} must be a positive number.")
    if values.get("title") is not None:
        title = re.sub(r"\r\n|\r|\n", " ", str(values["title"])).strip()
        experiment.title = title[:MAX_TITLE] or "Untitled"
    for name, value in numbers.items():
        setattr(experiment, name, int(value) or None if value is not None else None)


def _add_tag(experiment: Experiment, tag: Any) -> None:
    text = str(tag).replace("\\", "").replace("|", " ").strip() if isinstance(tag, str) else ""
    if not text:
        _refuse(400, "Input is too short!")
    if text not in experiment.tags:
        experiment.tags.append(text)


def _json_body(request: Request) -> dict[str, Any]:
    if request.content_type != "application/json":
        _refuse(400, "Incorrect content-type header.")
    try:
        values = json.loads(request.body or b"{}")
    except ValueError:
        _refuse(400, "Error decoding the JSON payload.")
    if not isinstance(values, dict):
        _refuse(400, "A JSON object is needed.")
    return values


def _numbers(text: str, name: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        _refuse(400, f"{name} must be a number.")
    return [int(number) for number in numbers]


def _tags(experiment: Experiment) -> Html:
    return Html.join_all(pages.element("span", tag, class_="tag") for tag in experiment.tags)


def _download(upload: Upload) -> Response:
    disposition = f"attachment; filename*=UTF-8''{quote(upload.real_name)}"
    headers = (("Content-Disposition", disposition), ("X-Content-Type-Options", "nosniff"))
    return Response(200, upload.content, "application/octet-stream", headers)


def _created(path: str) -> Response:
    return Response(201, b"", "text/html; charset=UTF-8", (("Location", PUBLIC_BASE + path),))


def _error(status: int, description: str) -> Response:
    return Response.json(status, {"code": status, "message": NAMES[status], "description": description})


def _refuse(status: int, description: str) -> NoReturn:
    raise Refused(_error(status, description))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
