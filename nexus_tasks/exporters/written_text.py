"""Tells text that people changed from text that we wrote; used by the notebooks' destinations before they overwrite.

Services rewrite the HTML that they are given (tags, entities, white space), so what a reader sees is compared. What was
written is kept in a checkpoint as *marks*: named fingerprints in one text, `body=… text=…`. The mark `text` holds every
text that may stand over there because of us: the last one, and those whose answer was lost.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser

from nexus_tasks.exporters.steps import fingerprint

Marks = dict[str, str]

_UNSEEN = {"script", "style", "head", "template"}
_MARKING = {"s", "del", "strike", "mark"}  # none of which we write: they say something of the text inside
_MARKING_STYLE = re.compile(r"line-through|background", re.IGNORECASE)  # as editors write the same
_EMBEDDED = {"img", "picture", "video", "audio", "iframe", "embed", "object", "canvas", "svg", "math", "input"}
_SOURCE_DIGITS = 12  # of a source's fingerprint: a summary may hold hundreds of small pictures


@dataclass(frozen=True)
class Visible:
    """What a reader sees of some HTML."""

    text: str  # without any white space, of which services add and drop as they like
    links: tuple[str, ...]
    embedded: tuple[str, ...]  # pictures and the like: a short fingerprint of each one's source

    @property
    def mark(self) -> str:
        """Its entry in the mark `text`: a fingerprint of it, and those of the pictures."""
        return f"{fingerprint(self.text)[:32]}:{'.'.join(self.embedded)}"


def visible(html: str) -> Visible:
    """What a reader sees of `html`."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return Visible(without_white_space("".join(reader.texts)), tuple(reader.links), tuple(reader.embedded))


def without_white_space(text: str) -> str:
    """`text` without white space and without characters that nobody sees."""
    composed = unicodedata.normalize("NFC", text)
    unseen = [each for each in set(composed) if each.isspace() or unicodedata.category(each)[0] == "C"]
    return composed.translate(dict.fromkeys(map(ord, unseen)))


def source_mark(tag: str, source: str) -> str:
    """A short fingerprint of what an element shows, as `Visible.embedded` has it."""
    return fingerprint(tag, source)[:_SOURCE_DIGITS]


def is_ours(there: Visible, known: Mapping[str, str], wanted: Visible, *earlier: Visible) -> bool:
    """Whether nobody but us has written what is `there`.

    `known` are the marks of what was written. Where they do not tell, nothing at all, `wanted` and `earlier`, which an
    earlier try may have written, count as ours. A service may drop pictures; one that we did not send, and one more
    than we sent, is somebody's.
    """
    marks = _texts(known)
    if not marks and there.text == "" and not there.embedded:
        return True
    for mark in (*(marks or [each.mark for each in earlier]), wanted.mark):
        text, _, embedded = mark.partition(":")
        if there.mark.startswith(f"{text}:") and Counter(there.embedded) <= Counter(embedded.split(".")):
            return True
    return False


def while_changing(known: Mapping[str, str], there: Visible, wanted: Visible) -> Marks:
    """The marks until the answer to an update is there: either text may stand, of the rest nothing is known."""
    texts = dict.fromkeys([*_texts(known), there.mark, wanted.mark])
    return {"text": ",".join(texts)}


def packed(marks: Mapping[str, str]) -> str:
    """Marks as a checkpoint keeps them."""
    return " ".join(f"{name}={marks[name]}" for name in sorted(marks))


def unpacked(content: str | None) -> Marks:
    """The marks that a checkpoint kept; none, if it kept something else."""
    pairs = [part.partition("=") for part in (content or "").split()]
    return {name: value for name, equals, value in pairs if equals}


def _texts(known: Mapping[str, str]) -> list[str]:
    return [mark for mark in known.get("text", "").split(",") if mark]


class _Reader(HTMLParser):
    """Collects what a reader sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.links: list[str] = []
        self.embedded: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        given = {name: value or "" for name, value in attrs}
        if tag in _MARKING or _MARKING_STYLE.search(given.get("style", "")):
            self.texts.append(f"<{tag}>")
        if tag in _EMBEDDED:
            self._embed(tag, given)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])

    def _embed(self, tag: str, given: Mapping[str, str]) -> None:
        """Note what is shown there; a picture whose source a service has dropped shows nothing."""
        source = "".join(given.get("src", "").split()) + given.get("srcset", "")
        if source or tag != "img":
            self.embedded.append(source_mark(tag, source))

    def handle_endtag(self, tag: str) -> None:
        if self._unseen and tag == self._unseen[-1]:
            self._unseen.pop()

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.texts.append(data)
