"""The folders of a LabArchives notebook in which records lie, and what they are called; used by the destination.

LabArchives makes a second folder of the same name when it is asked to, so a folder is looked up before it is made, once
for all records and workers.
"""

import hashlib
from collections.abc import Sequence
from functools import partial

from nexus_tasks.exporters.base import Checkpoint
from nexus_tasks.exporters.labarchives.api import ROOT, LabArchivesApi

TOP_FOLDER = "NexusLIMS Records"
LONGEST_NAME = 200  # characters; names travel in the address of a call, where each may take twelve bytes
_DIGEST = 8  # characters of the hash that keeps names apart


class Folders:
    """The folders of a notebook, made once for all records; what is known of them is shared by all workers."""

    def __init__(self, api: LabArchivesApi, shared: Checkpoint, notebook: str) -> None:
        self._api = api
        self._shared = shared
        self._notebook = notebook

    def ensure(self, path: Sequence[str]) -> str:
        """The innermost folder of `path`, made with those around it as far as they are not there."""
        parent = ROOT
        for depth, text in enumerate(path, start=1):
            parent = self._folder(self._step(path[:depth]), parent, text)
        return parent

    def forget_missing(self, path: Sequence[str]) -> bool:
        """Forget the folders that somebody has deleted or moved; whether there were any."""
        parent, gone = ROOT, False
        for depth, text in enumerate(path, start=1):
            step = self._step(path[:depth])
            known = self._shared.get(step)
            there = None if gone else find_node(self._api, self._notebook, parent, text, is_page=False)
            if known is not None and there != known:
                self._shared.forget(step, known)
                gone = True
            parent = known or ROOT
        return gone

    def _folder(self, step: str, parent: str, text: str) -> str:
        known = self._shared.get(step)
        if known is not None:
            return known

        find = partial(find_node, self._api, self._notebook, parent, text, is_page=False)
        there = find()  # people, or an earlier installation, may have made it
        if there is not None:
            return self._shared.create(step, lambda: there, find=lambda: there)
        return self._shared.create(
            step, partial(self._api.insert_node, self._notebook, parent, text, is_folder=True), find=find
        )

    def _step(self, path: Sequence[str]) -> str:
        return f"folder {self._notebook} {'/'.join(path)}"


def find_node(api: LabArchivesApi, notebook: str, parent: str, *texts: str, is_page: bool) -> str | None:
    """The folder or page with exactly one of `texts`; of several the first listed, for they have no dates."""
    for node in api.get_tree_level(notebook, parent):
        if node.is_page == is_page and node.display_text in texts:
            return node.tree_id
    return None


def node_name(text: str) -> str:
    """`text` as the name of a folder or page: on one line, without characters that XML answers could not carry back.

    Where characters had to go, a short hash stands for them: names that differ stay different.
    """
    plain = "".join(each for each in " ".join(text.split()) if each.isprintable())
    if plain == text and len(plain) <= LONGEST_NAME:
        return plain
    digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:_DIGEST]
    return f"{plain[: LONGEST_NAME - _DIGEST - 1].rstrip()} {digest}".strip()
