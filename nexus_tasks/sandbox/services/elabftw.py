"""A stand-in for eLabFTW: experiments, tags and uploads of its REST interface v2, as strict as the service.

The behaviour is that of 5.3.11, or of an older release given as `version`; `StandIns` starts it.
"""

import hashlib
import json
import mimetypes
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import PurePath
from typing import Any, ClassVar, NoReturn
from urllib.parse import quote

from lxml import html as lxml_html

from nexus_tasks.sandbox.services import pages
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.multipart import Part, read_parts
from nexus_tasks.sandbox.services.pages import Html
from nexus_tasks.sandbox.services.service import Handler, Refused, Service

VERSION = 50311  # 5.3.11
CREATES_WITH_BODY = 50200  # the release from which POST takes body and metadata
TELLS_TEAM_OF_KEY = 50100  # the release from which a key is listed with its team
PUBLIC_BASE = "https://elabftw.sandbox.invalid"  # the host in Location need not be the one that was called
FIRST_EXPERIMENT_ID = 57
FIRST_UPLOAD_ID = 301
DEFAULT_LIMIT = 15  # experiments in a list when the client does not say
MAX_TITLE = 255  # characters
MAX_TAG = 255  # characters; the database refuses a longer one
MAX_BODY = 4_120_000  # bytes
MAX_HASHED = 100_000_000  # bytes; a larger upload has no hash

READ_ONLY_API_KEY = "8-sandbox-elabftw-read-only-key"  # may read; every other call is refused
TEAM = {"id": 1, "name": "Sandbox team"}
CATEGORIES = {1: "Imaging", 2: "Spectroscopy", 3: "Diffraction"}
STATUSES = {1: "Running", 2: "Success", 3: "Need to be redone", 4: "Fail"}

NORMAL, ARCHIVED, DELETED = 1, 2, 3

# What is left of a body: the elements that 5.3.11 allows, each with its attributes. Of any other only the text stays,
# and not even that of a hidden one.
HIDDEN_ELEMENTS = {"script", "style"}
_PLAIN = "br sub sup strong b em u s dl dt dd blockquote hr code pre summary caption figure figcaption"
_STYLED = "div p span ul ol li h1 h2 h3 h4 h5 h6 tr"
_CELL = {"style", "colspan", "rowspan"}
ALLOWED_ELEMENTS: dict[str, set[str]] = {
    **{name: set() for name in _PLAIN.split()},
    **{name: {"style"} for name in _STYLED.split()},
    "a": {"href", "target"},
    "img": {"src", "style", "width", "height"},
    "video": {"src", "controls", "style", "width", "height"},
    "audio": {"src", "controls"},
    "source": {"src", "type"},
    "table": {"style", "data-table-sort", "border"},
    "td": _CELL,
    "th": _CELL,
    "details": {"open"},
}
ALLOWED_SCHEMES = {"", "http", "https", "mailto", "ftp", "nntp", "news", "tel"}
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")  # taken out of a body

NAMES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Resource Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
    500: "Unexpected error",
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
    locked: bool = False
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
            "category_title": None if self.category is None else CATEGORIES.get(self.category),
            "status": self.status,
            "status_title": None if self.status is None else STATUSES[self.status],
            "state": self.state,
            "locked": int(self.locked),
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

    `version` is `elabftw_version_int`: before 50200, POST ignores body and metadata. Beside `api_key` there is
    `READ_ONLY_API_KEY`. `clock_ahead`: seconds by which the `Date` of its answers is ahead of the time.
    """

    name: ClassVar[str] = "eLabFTW"
    pages: ClassVar[frozenset[str]] = frozenset({"/", "/experiments.php", "/app/download.php"})

    def __init__(self, api_key: str, version: int = VERSION, *, clock_ahead: float = 0.0) -> None:
        super().__init__()
        self._clock_ahead = clock_ahead
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
            ("GET", "/api/v2/users/(?:me|1)", self._user),
            ("GET", "/api/v2/apikeys/?", self._keys),
            ("GET", "/api/v2/teams/(?:current|1)/experiments_categories/?", self._categories),
            ("GET", "/api/v2/teams/(?:current|1)/experiments_status/?", self._statuses),
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
        if given not in {self._api_key, READ_ONLY_API_KEY}:
            _refuse(401, "No corresponding API key found!")
        if given == READ_ONLY_API_KEY and request.method != "GET":
            _refuse(400, "You are using a read-only key to execute a write action.")

    def not_found(self, request: Request) -> Response:
        """See `Service.not_found`."""
        return _error(404, f"There is nothing at {request.path}.")

    def answer(self, request: Request) -> Response:
        """See `Service.answer`; an answer tells the service's time, as those of web servers do."""
        response = super().answer(request)
        date = formatdate(time.time() + self._clock_ahead, usegmt=True)
        return replace(response, headers=(*response.headers, ("Date", date)))

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

    # --- the instance, its user and team

    def _info(self, _request: Request, _match: re.Match[str]) -> Response:
        major, minor, patch = self._version // 10_000, self._version // 100 % 100, self._version % 100
        stored = sum(len(upload.content) for each in self._experiments.values() for upload in each.uploads.values())
        return Response.json(
            200,
            {
                "elabftw_version": f"{major}.{minor}.{patch}",
                "elabftw_version_int": self._version,
                "ts_balance": 0,
                "all_users_count": 1,
                "active_users_count": 1,
                "items_count": 0,
                "teams_count": 1,
                "experiments_count": len(self._experiments),
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
                "last_used_at": _now(),
                "hash": "$2y$10$" + "x" * 53,
                "can_write": can_write,
            }
            for key, name, can_write in ((self._api_key, "writes", 1), (READ_ONLY_API_KEY, "reads only", 0))
        ]
        if self._version >= TELLS_TEAM_OF_KEY:
            keys = [{**key, "team": TEAM["id"], "team_name": TEAM["name"]} for key in keys]
        return Response.json(200, keys)

    def _categories(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(200, _listed_with_colours(CATEGORIES))

    def _statuses(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(200, _listed_with_colours(STATUSES))

    # --- experiments

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
        values = _json_body(request)
        if values.get("action") == "lock":
            experiment = self._experiment(match)
            experiment.locked = not experiment.locked
            return Response.json(200, experiment.as_json(whole=True))
        experiment = self._writable(match)
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
        experiment = self._writable(match)
        experiment.state = DELETED
        for upload in experiment.uploads.values():
            upload.state = DELETED
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
        if experiment.locked:
            _refuse(401, "Sorry, you have insufficient permissions for this action.")
        return experiment

    # --- uploads

    def _list_uploads(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._experiment(match)
        states = _numbers(request.parameter("state") or "1", "state")
        shown = [each.as_json(experiment.id) for each in experiment.uploads.values() if each.state in states]
        return Response.json(200, shown[::-1])  # the newest first

    def _add_upload(self, request: Request, match: re.Match[str]) -> Response:
        return self._save_upload(self._writable(match), request)

    def _replace_upload(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._writable(match)
        old = self._upload(experiment, match)
        response = self._save_upload(experiment, request, keeps_comment=False)
        old.state = NORMAL if old.state == ARCHIVED else ARCHIVED  # one that was archived already comes back
        return response

    def _save_upload(self, experiment: Experiment, request: Request, *, keeps_comment: bool = True) -> Response:
        try:
            parts = read_parts(request)
        except ValueError as error:
            _refuse(400, str(error))
        file = parts.get("file")
        if file is None or not file.filename:
            _refuse(400, "No file was sent in the field file.")
        sent = parts.get("comment", Part(b"", None)).content.decode("utf-8", "replace")
        comment = sent or None if keeps_comment else None  # a replacement has none, up to 5.3.11 at least
        upload = Upload(self._next_upload, PurePath(file.filename).name, file.content, comment, _now())
        self._next_upload += 1
        experiment.uploads[upload.id] = upload
        return _created(f"/api/v2/experiments/{experiment.id}/uploads/{upload.id}")

    def _read_upload(self, request: Request, match: re.Match[str]) -> Response:
        experiment = self._experiment(match)
        upload = self._upload(experiment, match)
        if request.parameter("format") == "binary":
            kind = mimetypes.guess_type(upload.real_name)[0] or "application/octet-stream"
            return _download(upload, "inline", kind)
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
        if upload is None:  # a deleted one is still there, in its state
            _refuse(404, "Nothing to show with this id.")
        return upload

    # --- pages

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
            for each in reversed(self._experiments.values())
            if each.state != DELETED
        ]
        headings = ("Id", "Title", "Tags", "Status", "Files", "Created (UTC)")
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
        fields = [
            (name, Html.join_all([_shown(value), " ", _described(experiment, name)]))
            for name, value in _extra_fields(experiment).items()
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
                pages.element("p", f"Replaced or archived files: {archived}", class_="dim") if archived else "",
            ),
        )

    def _download_page(self, request: Request, _match: re.Match[str]) -> Response:
        for experiment in self._experiments.values():
            for upload in experiment.uploads.values():
                if str(upload.id) == request.parameter("id") and upload.state != DELETED:
                    return _download(upload, "attachment", "application/octet-stream")
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
    body = UNWRITABLE.sub("", body)
    if not body.strip():
        return ""
    root = lxml_html.fragment_fromstring(body, create_parent="div")
    for node in list(root.iterdescendants()):
        tag = str(node.tag)
        if not isinstance(node.tag, str) or tag in HIDDEN_ELEMENTS:
            node.drop_tree()
            continue
        allowed = ALLOWED_ELEMENTS.get(tag)
        for name in list(node.attrib):
            scheme = _scheme(node.get(name) or "") if name in {"href", "src"} else ""
            if allowed is None or name not in allowed or scheme not in ALLOWED_SCHEMES:
                del node.attrib[name]
        if allowed is None or (tag == "img" and not node.get("src")):
            node.drop_tag()
        elif tag == "a" and _scheme(node.get("href") or "") in {"http", "https"}:
            node.set("target", "_blank")
            node.set("rel", "noreferrer noopener")
    inner = str(lxml_html.tostring(root, encoding="unicode"))
    return inner.removeprefix("<div>").removesuffix("</div>")


def _scheme(address: str) -> str:
    """The scheme of a link, also of one that a browser would read although it is not written cleanly."""
    scheme, colon, _ = "".join(address.split()).lower().partition(":")
    return scheme if colon and "/" not in scheme and "?" not in scheme and "#" not in scheme else ""


def _set_title_and_numbers(experiment: Experiment, values: dict[str, Any]) -> None:
    numbers = {name: values[name] for name in ("category", "status") if name in values}
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not str(value).isdecimal()):
            _refuse(400, f"{name} must be a positive number.")
    if values.get("title") is not None:
        title = re.sub(r"\r\n|\r|\n", " ", str(values["title"])).strip()
        experiment.title = title[:MAX_TITLE] or "Untitled"
    status = int(numbers.get("status") or 0)
    if status and status not in STATUSES:  # a foreign key; a category has none, so any number is kept
        _refuse(500, "Cannot add or update a child row: a foreign key constraint fails (`fk_experiments_status_id`)")
    for name, value in numbers.items():
        setattr(experiment, name, int(value) or None if value is not None else None)


def _add_tag(experiment: Experiment, tag: Any) -> None:
    text = str(tag).replace("\\", "").replace("|", " ").strip() if isinstance(tag, str) else ""
    if not text:
        _refuse(400, "Input is too short! (minimum: 1)")
    if len(text) > MAX_TAG:
        _refuse(500, "Data too long for column 'tag' at row 1")
    if text not in experiment.tags:
        experiment.tags.append(text)


def _json_body(request: Request) -> dict[str, Any]:
    if request.content_type != "application/json":
        _refuse(400, "Incorrect content-type header.")
    try:
        values = json.loads(request.body or b"{}")
        json.dumps(values, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except ValueError:
        _refuse(400, "Error decoding json payload.")
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


def _unbroken(value: object) -> Html:
    return pages.element("span", value, style="white-space: nowrap")


def _shown(value: str) -> Html:
    return Html(pages.html(pages.web_link(value)))


def _described(experiment: Experiment, name: str) -> Html:
    """What goes with an extra field's value: its unit and its description."""
    field = (experiment.metadata or {})["extra_fields"][name]
    said = " ".join(str(field[part]) for part in ("unit", "description") if field.get(part))
    return pages.element("span", said, class_="dim")


def _download(upload: Upload, disposition: str, kind: str) -> Response:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", upload.real_name)
    named = f"{disposition}; filename={plain}"
    if plain != upload.real_name:
        named = f"{disposition}; filename={plain}; filename*=utf-8''{quote(upload.real_name)}"
    headers = (("Content-Disposition", named), ("X-Content-Type-Options", "nosniff"))
    return Response(200, upload.content, kind, headers)


def _listed_with_colours(titles: dict[int, str]) -> list[dict[str, Any]]:
    return [
        {"id": number, "title": title, "color": "29aeb9", "is_default": 0, "ordering": number, "state": NORMAL}
        for number, title in titles.items()
    ]


def _created(path: str) -> Response:
    return Response(201, b"", "text/html; charset=UTF-8", (("Location", PUBLIC_BASE + path),))


def _error(status: int, description: str) -> Response:
    return Response.json(status, {"code": status, "message": NAMES[status], "description": description})


def _refuse(status: int, description: str) -> NoReturn:
    raise Refused(_error(status, description))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
