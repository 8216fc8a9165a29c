"""Renders a record as HTML for notebooks: the one place that does; called by the eLabFTW and LabArchives destinations.

Everything that comes from a lab (identifiers, names, file names) is escaped; the replacement character stands for what
HTML cannot hold. The page stays within a size in bytes: the details always stand, then files are listed, then previews
fill what is left, as data URIs.
"""

import base64
import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from nexus_tasks.exporters.base import Activity, ExportContext, TransientError
from nexus_tasks.exporters.written_text import Visible, source_mark, without_white_space

# What neither HTML nor XML can hold: control characters but for white space, half pairs, and two that are none.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_FIGURE = "display: inline-block; margin: 0 1em 1em 0; vertical-align: top"  # beside each other where there is room
_PICTURE = "max-width: 100%; max-height: 24em"
_DOCUMENT = "body { font-family: sans-serif; line-height: 1.4; margin: 2em; overflow-wrap: anywhere }"
_MARKUP = 300  # bytes of a picture's markup, at most
_RESERVE = 500  # bytes kept for the sentences that say what was left out
_PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


_TAGS = re.compile(r"<[^>]*>")  # of ours, in which text is escaped
_LINKS = re.compile(r'<a href="([^"]*)"')


@dataclass(frozen=True)
class Summary:
    """A rendered record, an HTML fragment. Its `parts` are markup and, every second one, the source of a picture."""

    parts: tuple[str, ...]

    @cached_property
    def html(self) -> str:
        """The whole fragment."""
        return "".join(self.parts)

    @cached_property
    def visible(self) -> Visible:
        """What a reader sees of it: as `written_text.visible` reads it, without a parser."""
        markup = "".join(self.parts[::2])
        return Visible(
            text=without_white_space(html.unescape(_TAGS.sub("", markup))),
            links=tuple(html.unescape(link) for link in _LINKS.findall(markup)),
            embedded=tuple(source_mark("img", source) for source in self.parts[1::2]),
        )


@dataclass(frozen=True)
class _Picture:
    """A preview that could be shown: its place in the record, its caption (HTML), and the bytes of its file."""

    place: int
    path: Path
    caption: str
    size: int

    @property
    def bytes_in_page(self) -> int:
        """What it would take in the page."""
        return (self.size + 2) // 3 * 4 + 2 * _size(self.caption) + _MARKUP


def cdcs_link(context: ExportContext) -> str | None:
    """The web address of the record in CDCS, or None when CDCS does not hold it."""
    result = context.get_result("cdcs")
    if result is None or not result.success or not result.record_url:
        return None
    try:
        scheme = urlsplit(result.record_url).scheme
    except ValueError:
        return None
    return result.record_url if scheme in {"http", "https"} else None


def moment(when: datetime) -> str:
    """A time as people read it: in its own zone, with the difference from UTC, and the zone's name where it has one."""
    zone = getattr(when.tzinfo, "key", None)
    return when.isoformat(timespec="seconds") + (f" ({zone})" if zone else "")


def escape(text: str) -> str:
    """`text` as HTML that shows it and nothing else, in an element or in a quoted attribute."""
    return html.escape(_UNWRITABLE.sub("\ufffd", text))


def render_summary(
    context: ExportContext, *, max_bytes: int, gallery: bool = False, files_root: Path | None = None
) -> Summary:
    """The record as an HTML fragment of at most `max_bytes` in UTF-8.

    `gallery` adds the previews. File names are shown relative to `files_root` where they lie below it; of other files
    only the name is shown. A page is never cut below its session details, however small `max_bytes` is. Raises
    `TransientError` for a preview that is there and cannot be read.
    """
    page = _details(context) + _related(context)
    page += _files(context.activities, files_root, max_bytes - _size(page) - _RESERVE)
    previews = _gallery(context.activities, max_bytes - _size(page) - _RESERVE) if gallery else [""]
    return Summary((page + previews[0], *previews[1:]))


def render_note(context: ExportContext, record_sha256: str) -> str:
    """What is added, once for each content, to a summary that was not renewed because people have changed it."""
    link = cdcs_link(context)
    related = "" if link is None else f' <a href="{escape(link)}">View in CDCS</a>: {escape(link)}'
    return (
        "<p>NexusLIMS: the record of this session has changed, and the attached file is up to date (SHA-256 "
        f"{record_sha256[:16]}). The summary was edited here by hand, so it was left as it is.{related}</p>\n"
    )


def identifying_text(context: ExportContext) -> str:
    """The text that a summary of this session shows, and a summary of any other session does not."""
    (first, session), (following, _) = list(_facts(context).items())[:2]
    return f"{first}: {_UNWRITABLE.sub(chr(0xFFFD), session)} {following}: "


def whole_document(fragment: str, title: str) -> str:
    """`fragment` as a document of its own, for a file that a browser opens."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_DOCUMENT}</style>\n</head>\n"
        f"<body>\n{fragment}</body>\n</html>\n"
    )


def _facts(context: ExportContext) -> dict[str, str]:
    facts = {
        "Session ID": context.session_identifier,
        "Instrument": context.instrument_pid,
        "User": context.user,
        "Start": moment(context.dt_from),
        "End": moment(context.dt_to),
    }
    return {name: value for name, value in facts.items() if value}


def _details(context: ExportContext) -> str:
    items = [f"<strong>{name}</strong>: {escape(value)}" for name, value in _facts(context).items()]
    return f"<h1>NexusLIMS Microscopy Session</h1>\n\n<h2>Session Details</h2>\n{_list(items)}"


def _related(context: ExportContext) -> str:
    link = cdcs_link(context)
    if link is None:
        return ""
    anchor = f'<a href="{escape(link)}">View in CDCS</a>'
    return f"\n<h2>Related Records</h2>\n{_list([anchor])}"


def _files(activities: list[Activity], root: Path | None, budget: int) -> str:
    if not any(activity.files for activity in activities):
        return ""
    page, left_out = "\n<h2>Data Files</h2>\n", 0
    budget -= _size(page)
    for number, activity in enumerate(activities, start=1):
        if not activity.files:
            continue
        heading = f"<h3>Activity {number} ({_counted(len(activity.files), 'file')})</h3>\n"
        budget -= _size(heading + _list([]))
        items = []
        for path in activity.files:
            item = escape(_shown(path, root))
            budget -= _size(item) + len("  <li></li>\n")
            if budget < 0:
                break
            items.append(item)
        left_out += len(activity.files) - len(items)
        if items:
            page += heading + _list(items)
    if left_out:
        page += f"<p>{_counted(left_out, 'more file')} not listed here; the attached record names every file.</p>\n"
    return page


def _gallery(activities: list[Activity], budget: int) -> list[str]:
    """The parts of the gallery, as `Summary` has them."""
    pictures, left_out = _pictures(activities)
    shown: list[tuple[_Picture, bytes]] = []
    for picture in sorted(pictures, key=lambda candidate: candidate.size, reverse=True):
        content = b""
        needed = picture.bytes_in_page
        if needed <= budget:
            with _there_or_not(picture.path):
                content = picture.path.read_bytes()
        if len(content) == picture.size:
            shown.append((picture, content))
            budget -= needed
        else:
            left_out += 1
    if not shown and not left_out:
        return [""]
    parts = ["\n<h2>Previews</h2>\n"]
    for picture, content in sorted(shown, key=lambda pair: pair[0].place):
        data = base64.b64encode(content).decode("ascii")
        kind = _PICTURES[picture.path.suffix.lower()]
        parts[-1] += f'<figure style="{_FIGURE}"><img src="'
        parts += [
            f"data:{kind};base64,{data}",
            f'" alt="{picture.caption}" style="{_PICTURE}"><figcaption>{picture.caption}</figcaption></figure>\n',
        ]
    if left_out:
        parts[-1] += f"<p>{_counted(left_out, 'preview')} left out: too large for this page, or not readable.</p>\n"
    return parts


def _pictures(activities: list[Activity]) -> tuple[list[_Picture], int]:
    """The previews that a browser shows, and how many others there are."""
    pictures, others = [], 0
    pairs = [pair for activity in activities for pair in zip(activity.files, activity.previews, strict=False)]
    for place, (data_file, preview) in enumerate(pairs):
        if preview is None:
            continue
        size = 0
        with _there_or_not(preview):
            size = preview.stat().st_size
        if size and preview.suffix.lower() in _PICTURES:
            pictures.append(_Picture(place, preview, escape(data_file.name), size))
        else:
            others += 1
    return pictures, others


@contextmanager
def _there_or_not(preview: Path) -> Iterator[None]:
    """A preview that is gone is left out; of one that cannot be read at the moment the page would lack for ever."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise TransientError(
            f"The preview {preview} cannot be read ({reason}): make it readable for the workers."
        ) from None


def _shown(path: Path, root: Path | None) -> str:
    whole, start = str(path), f"{root}/"
    if whole.startswith(start):  # in nearly every case, and in no time
        return whole.removeprefix(start)
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else path.name


def _list(items: list[str]) -> str:
    return "<ul>\n" + "".join(f"  <li>{item}</li>\n" for item in items) + "</ul>\n"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))
