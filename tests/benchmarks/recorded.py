"""The figures of earlier runs, in `recorded.json` with what they were measured on, and as tables in the docs."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, of_part, rounded
from tests.benchmarks.services import ROOT

FILE = Path(__file__).with_name("recorded.json")
PAGE = ROOT / "docs" / "performance.md"
BEFORE, LAST = "before", "last"  # the engine of the first design, and the newest run
START, END = "<!-- recorded figures -->", "<!-- end of the recorded figures -->"


@dataclass(frozen=True)
class Recording:
    """One run's figures, and what they were measured on, part by part."""

    measured_on: Mapping[str, Mapping[str, Any]]  # by part
    figures: tuple[Figure, ...]

    def updated(self, figures: Iterable[Figure], measured_on: Mapping[str, Any]) -> "Recording":
        """With the parts that were measured now in the place of the older ones."""
        new = tuple(figures)
        parts = {figure.part for figure in new}
        kept = tuple(figure for figure in self.figures if figure.part not in parts)
        return Recording({**self.measured_on, **dict.fromkeys(sorted(parts), measured_on)}, kept + new)

    def figure(self, like: Figure) -> Figure | None:
        """The recorded one of the same name."""
        key = (like.part, like.name, like.contender)
        found = [each for each in self.figures if (each.part, each.name, each.contender) == key]
        return found[0] if found else None


def machine(load_before: float) -> dict[str, Any]:
    """What figures were measured on; `load_before` tells how busy it was with other things."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "processors": os.cpu_count() or 0,
        "model": _processor_model(),
        "python": platform.python_version(),
        "system": platform.system(),
        "load_before": rounded(load_before),
    }


def read() -> dict[str, Recording]:
    """All recordings by name; empty where there is no file."""
    if not FILE.is_file():
        return {}
    return {
        name: Recording(each["measured_on"], tuple(Figure.from_json(figure) for figure in each["figures"]))
        for name, each in json.loads(FILE.read_text(encoding="utf-8")).items()
    }


def record(name: str, figures: Sequence[Figure], measured_on: Mapping[str, Any]) -> None:
    """Put the figures into the file, and the tables into the page."""
    recordings = read()
    recordings[name] = recordings.get(name, Recording({}, ())).updated(figures, measured_on)
    document = {
        each: {
            "measured_on": recording.measured_on,
            "figures": [figure.as_json() for figure in recording.figures],
        }
        for each, recording in recordings.items()
    }
    FILE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    render()


def render() -> None:
    """Write the tables into the page, between the two marks."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{tables(read())}{END}{after}", encoding="utf-8")


def tables(recordings: Mapping[str, Recording]) -> str:
    """Every part as a Markdown table: the recordings beside each other, medians with their spreads."""
    names = [name for name in (BEFORE, LAST) if name in recordings]
    text = ""
    for part in dict.fromkeys(figure.part for name in names for figure in recordings[name].figures):
        text += f"\n### {part}\n\n"
        for name in names:
            measured_on = recordings[name].measured_on.get(part)
            if measured_on:
                text += f"{name}: {_described(measured_on)}.\n\n"
        text += f"| | | unit | {' | '.join(names)} |\n|---|---|---|{'---|' * len(names)}\n"
        figures = [figure for name in reversed(names) for figure in of_part(recordings[name].figures, part)]
        for figure in {(each.name, each.contender): each for each in figures}.values():
            cells = [shown(recordings[name].figure(figure)) for name in names]
            text += f"| {figure.name} | {figure.contender} | {figure.unit} | {' | '.join(cells)} |\n"
    return text + "\n"


def shown(figure: Figure | None) -> str:
    """A median, with its spread where there is one."""
    if figure is None:
        return "–"
    low, high = figure.spread
    return number(figure.median) + (f" ({number(low)} to {number(high)})" if low != high else "")


def number(value: float) -> str:
    """As people read it."""
    short = float(f"{value:.3g}")
    return f"{short:,.0f}" if abs(short) >= 100 or short == int(short) else f"{short:g}"


def _described(measured_on: Mapping[str, Any]) -> str:
    return (
        f"{measured_on['date']}, commit {measured_on['commit']}, {measured_on['processors']} cores of "
        f"{measured_on['model']}, Python {measured_on['python']}, load {measured_on['load_before']:g} before it began"
    )


def _commit() -> str:
    """The newest commit that changed the package, with a `+` where it has been changed since."""
    try:
        newest = _git("log", "-1", "--format=%h", "--abbrev=7", "--", "nexus_tasks")
        changed = _git("status", "--porcelain", "--", "nexus_tasks")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return newest + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
