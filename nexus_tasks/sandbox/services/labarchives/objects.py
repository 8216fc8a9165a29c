"""What the LabArchives stand-in holds: folders, pages and entries; its calls change them, its pages show them."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

ROOT = "0"


@dataclass
class Node:
    """A folder or a page."""

    tree_id: str
    parent: str
    text: str
    is_page: bool


@dataclass
class Entry:
    """A text or an attachment on a page; `page` is None in the Inbox."""

    eid: str
    page: str | None
    part_type: str
    text: str = ""
    caption: str = ""
    filename: str | None = None
    content: bytes = b""

    @property
    def sha256(self) -> str:
        """The hash of what it holds."""
        return hashlib.sha256(self.content if self.filename is not None else self.text.encode()).hexdigest()


class Notebook:
    """All folders, pages and entries. Identifiers are not given again after a reset."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.entries: dict[str, Entry] = {}
        self._next_number = 1

    def identifier(self, kind: str) -> str:
        """Base64 with padding, as the service gives them: careless URLs break on it."""
        number = self._next_number
        self._next_number += 1
        plain = f"{number}.{number % 10}|27/32/{kind}/{41_000_000 + number}|???>>>".encode()
        plain += b">" * ((1 - len(plain)) % 3)  # one byte more than a multiple of three: two signs of padding
        return base64.b64encode(plain).decode()

    def ancestors(self, tree_id: str) -> list[str]:
        """The node itself, then the folders around it, from the inside."""
        ancestors: list[str] = []
        while tree_id in self.nodes:
            ancestors.append(tree_id)
            tree_id = self.nodes[tree_id].parent
        return ancestors

    def path(self, tree_id: str) -> str:
        """The names of the folders around a node and its own, with slashes between them."""
        return "/".join(self.nodes[each].text for each in reversed(self.ancestors(tree_id)))

    def listed(self, *, content: bool = False) -> list[dict[str, Any]]:
        """All of it, as `Service.objects` shows it."""
        nodes: list[dict[str, Any]] = [
            {
                "kind": "page" if node.is_page else "folder",
                "id": node.tree_id,
                "parent": node.parent,
                "name": node.text,
                "path": self.path(node.tree_id),
            }
            for node in self.nodes.values()
        ]
        return nodes + [
            {
                "kind": "entry",
                "id": entry.eid,
                "page": entry.page,
                "path": "Inbox" if entry.page is None else self.path(entry.page),
                "part_type": entry.part_type,
                "caption": entry.caption,
                "filename": entry.filename,
                "size": len(entry.content) if entry.filename is not None else len(entry.text.encode()),
                "sha256": entry.sha256,
            }
            | ({"entry_data": entry.text} if content else {})
            for entry in self.entries.values()
        ]

    def clear(self) -> None:
        """Forget all of it."""
        self.nodes.clear()
        self.entries.clear()
