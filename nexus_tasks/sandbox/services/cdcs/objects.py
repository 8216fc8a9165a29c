"""What the CDCS stand-in holds: records and users, beside the workspaces and templates that it always has.

Its calls change them, its pages show them.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

TEMPLATE_TITLE = "Nexus Experiment Schema"
WORKSPACE_TITLE = "Global Public Workspace"
OTHER_TEMPLATE = 12  # belongs to another manager
OLD_VERSION = 17
CURRENT_VERSION = 41
READ_ONLY_WORKSPACE = 3  # of a group that lets the token's user read
PUBLIC_WORKSPACE = 8
USER_ID = 5  # the token's user
USERS = {1: "admin", USER_ID: "nexuslims"}
FIRST_RECORD_ID = 101


@dataclass
class Record:
    """One XML document."""

    id: int
    template: int
    title: str
    xml_content: str
    workspace: int | None
    created: str
    modified: str
    user: int = USER_ID

    def as_json(self, field: str) -> dict[str, Any]:
        """The record as the interface shows it; `field` is the name of its document."""
        return {
            "id": self.id,
            "template": self.template,
            "workspace": self.workspace,
            "user_id": str(self.user),
            "title": self.title,
            "checksum": None,
            "creation_date": self.created,
            "last_modification_date": self.modified,
            "last_change_date": self.modified,
            field: self.xml_content,
        }


class Database:
    """All records and users. Numbers of records are not given again after a reset."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        self.users = dict(USERS)
        self._next_id = FIRST_RECORD_ID

    def add(self, template: int, title: str, content: str, workspace: int | None) -> Record:
        """Keep a new record."""
        moment = now()
        record = Record(self._next_id, template, title, content, workspace, moment, moment)
        self._next_id += 1
        self.records[record.id] = record
        return record

    def newest_first(self) -> list[Record]:
        """All records, the last made first."""
        return sorted(self.records.values(), key=lambda record: record.id, reverse=True)

    def listed(self, *, content: bool = False) -> list[dict[str, Any]]:
        """All records, as `Service.objects` shows them."""
        return [
            {
                "kind": "record",
                "id": record.id,
                "title": record.title,
                "template": record.template,
                "workspace": record.workspace,
                "owner": self.users[record.user],
                "sha256": hashlib.sha256(record.xml_content.encode()).hexdigest(),
                "size": len(record.xml_content.encode()),
            }
            | ({"xml_content": record.xml_content} if content else {})
            for record in self.records.values()
        ]

    def clear(self) -> None:
        """Forget the records, and the users that were made."""
        self.records.clear()
        self.users = dict(USERS)


def now() -> str:
    """The time as CDCS writes it, in UTC."""
    return datetime.now(UTC).isoformat()
