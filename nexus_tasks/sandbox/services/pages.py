"""The look of the stand-ins' web pages: every text is escaped here, nothing is loaded from elsewhere."""

from collections.abc import Iterable
from html import escape
from typing import Self

STYLE = """
:root { color-scheme: light dark; --line: #d8dde3; --soft: #f4f6f8; --ink: #1c2733; --dim: #5c6b7a; --accent: #0b62a8 }
@media (prefers-color-scheme: dark) {
  :root { --line: #37424d; --soft: #1d252c; --ink: #e6ebf0; --dim: #9aa8b5; --accent: #6db8f2 }
  body { background: #12181d }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; max-width: 62rem; padding: 1.5rem }
header { display: flex; gap: .75rem; align-items: baseline; margin-bottom: 1.5rem;
  border-bottom: 1px solid var(--line) }
header a { font-weight: 600; text-decoration: none } header span, .dim { color: var(--dim); font-size: .875rem }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.125rem; margin: 1.75rem 0 .5rem } h3 { font-size: 1rem; margin: 1.25rem 0 .25rem }
a { color: var(--accent) } .scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .9375rem }
th, td { text-align: left; padding: .375rem .75rem .375rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--dim) } td { overflow-wrap: anywhere } table.pairs th { width: 14rem }
.tag { background: var(--soft); border: 1px solid var(--line); border-radius: 1rem; padding: .0625rem .625rem;
  margin-right: .375rem; font-size: .875rem; display: inline-block }
iframe { width: 100%; height: 26rem; resize: vertical; background: #fff;
  border: 1px solid var(--line); border-radius: .375rem }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; font-size: .8125rem; border-radius: .375rem }
section { margin-left: .75rem; padding-left: .75rem; border-left: 2px solid var(--line) }
article { display: none; border-bottom: 1px solid var(--line); padding-bottom: 1.5rem; margin-bottom: 1.5rem }
article:target { display: block }
code { font-size: .8125rem } p.empty { color: var(--dim); padding: 1.5rem 0 }
"""

FRAME_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 1rem } h1 { font-size: 1.375rem } h2 { font-size: 1.125rem }
"""


class Html(str):
    """Text that is HTML already; a plain str is not, and gets escaped."""

    __slots__ = ()

    @classmethod
    def join_all(cls, parts: Iterable[str]) -> Self:
        """The parts one after the other, escaped where they are plain text."""
        return cls("".join(html(part) for part in parts))


def html(value: object) -> str:
    """`value` as HTML."""
    return str(value) if isinstance(value, Html) else escape(str(value))


def page(service: str, title: str, *parts: str) -> str:
    """A whole page of one service; `parts` that are not `Html` are escaped."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html(title)}</title><style>{STYLE}</style></head><body>"
        f'<header><a href="/">{html(service)}</a><span>stand-in, keeps nothing after it stops</span></header>'
        f"<main>{Html.join_all(parts)}</main></body></html>"
    )


def element(name: str, *parts: object, **attributes: object) -> Html:
    """One HTML element; a trailing underscore in an attribute's name is left out (`class_`)."""
    written = "".join(f' {key.rstrip("_")}="{escape(str(value))}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{''.join(html(part) for part in parts)}</{name}>")


def link(address: str, text: str) -> Html:
    """A link."""
    return element("a", text, href=address)


def table(headings: Iterable[str], rows: Iterable[Iterable[object]], *, empty: str) -> Html:
    """A table, or the sentence `empty` when there are no rows."""
    body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    if not body:
        return element("p", empty, class_="empty")
    head = element("tr", *(element("th", heading) for heading in headings))
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def pairs(rows: Iterable[tuple[object, object]]) -> Html:
    """A table of names and values."""
    cells = (element("tr", element("th", name), element("td", value)) for name, value in rows)
    return element("div", element("table", *cells, class_="pairs"), class_="scroll")


def web_link(value: str) -> object:
    """`value`, as a link if it is a web address."""
    return link(value, value) if value.startswith(("http://", "https://")) else value


def frame(content: str, title: str) -> Html:
    """Foreign HTML in a frame in which no script runs and nothing can be sent."""
    window = f'<base target="_blank"><style>{FRAME_STYLE}</style>'
    sandbox = "allow-popups allow-popups-to-escape-sandbox"  # so that a link in it can be followed
    return element("iframe", srcdoc=window + content, sandbox=sandbox, title=title)


def size(count: int) -> str:
    """A number of bytes, to read."""
    return f"{count:,} bytes" if count < 10_000 else f"{count / 1000:,.0f} kB"
