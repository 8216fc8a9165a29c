"""What the eLabFTW stand-in holds: experiments with their uploads; its calls change them, its pages show them."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

FIRST_EXPERIMENT_ID = 57
FIRST_UPLOAD_ID = 301
MAX_HASHED = 100_000_000  # bytes; a larger upload has no hash

CATEGORIES = {1: "Imaging", 2: "Spectroscopy", 3: "Diffraction"}
STATUSES = {1: "Running", 2: "Success", 3: "Need to be redone", 4: "Fail"}

NORMAL, ARCHIVED, DELETED = 1, 2, 3


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

    @property
    def extra_fields(self) -> dict[str, str]:
        """The values of its extra fields by their names."""
        fields = (self.metadata or {}).get("extra_fields")
        if not isinstance(fields, dict):
            return {}
        return {name: str(each.get("value") or "") for name, each in fields.items() if isinstance(each, dict)}


class Database:
    """All experiments. Numbers are not given again after a reset."""

    def __init__(self) -> None:
        self.experiments: dict[int, Experiment] = {}
        self._next_experiment = FIRST_EXPERIMENT_ID
        self._next_upload = FIRST_UPLOAD_ID

    def new_experiment(self) -> Experiment:
        """An experiment that is not stored yet; if it never is, the next one gets its number."""
        moment = now()
        return Experiment(self._next_experiment, moment, moment)

    def store(self, experiment: Experiment) -> None:
        """Keep a new experiment."""
        self._next_experiment += 1
        self.experiments[experiment.id] = experiment

    def attach(self, experiment: Experiment, name: str, content: bytes, comment: str | None) -> Upload:
        """Keep a new file with its experiment."""
        upload = Upload(self._next_upload, name, content, comment, now())
        self._next_upload += 1
        experiment.uploads[upload.id] = upload
        return upload

    def listed(self, *, content: bool = False) -> list[dict[str, Any]]:
        """All of it, as `Service.objects` shows it."""
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
            for each in self.experiments.values()
        ]


def now() -> str:
    """The time as eLabFTW writes it, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _sorted_as_mysql(value: Any) -> Any:
    """MySQL keeps the keys of a JSON object by length, then by alphabet."""
    if isinstance(value, dict):
        return {key: _sorted_as_mysql(value[key]) for key in sorted(value, key=lambda key: (len(key.encode()), key))}
    if isinstance(value, list):
        return [_sorted_as_mysql(each) for each in value]
    return value
