"""Splits the files of a session into acquisition activities; called by `record.build_record`.

Somebody who changes the sample or the mode writes nothing for much longer than between two pictures: an activity ends
with a pause. What a pause is, one of two rules says; both go by modification times alone, in whole seconds.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from statistics import median
from typing import Literal

from nexus_tasks.builder import density
from nexus_tasks.builder.files import DataFile

ActivityRule = Literal["density", "gap"]

SHORTEST_PAUSE = 300.0  # seconds: anything shorter is handling, not a new activity
PAUSE_FACTOR = 10.0  # how much longer than the usual gap between two files a pause is

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def group(files: Sequence[DataFile], rule: ActivityRule = "density", sensitivity: float = 1.0) -> list[list[DataFile]]:
    """The activities of a session in time order, each a list of its files sorted by modification time, then path.

    `rule` is "density" (NexusLIMS's, see `density.pauses`) or "gap" (see `long_gaps`). A larger `sensitivity` makes
    more activities, 0 makes one. Files of one second always stay together.
    """
    ordered = sorted(files, key=lambda file: (file.mtime, file.path))
    by_second = [(second, list(together)) for second, together in groupby(ordered, key=_whole_seconds)]
    if not by_second:
        return []
    find_pauses = _RULES[rule]
    beginnings = [0, *find_pauses([second for second, _ in by_second], sensitivity), len(by_second)]
    return [[file for _, together in by_second[begin:end] for file in together] for begin, end in pairwise(beginnings)]


def long_gaps(moments: Sequence[int], sensitivity: float = 1.0) -> list[int]:
    """The positions in `moments` at which a new activity begins: behind a gap of many times the usual one.

    `moments` are whole seconds, sorted, each once. How long a gap must be is divided by `sensitivity`.
    """
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    if not gaps or sensitivity == 0:
        return []
    pause = max(SHORTEST_PAUSE, PAUSE_FACTOR * median(gaps)) / sensitivity
    return [position for position, gap in enumerate(gaps, start=1) if gap > pause]


_RULES: dict[ActivityRule, Callable[[Sequence[int], float], list[int]]] = {
    "density": density.pauses,
    "gap": long_gaps,
}


def _whole_seconds(file: DataFile) -> int:
    """Several files in a second are one burst; and many storages know no finer times."""
    return (file.mtime - _EPOCH) // timedelta(seconds=1)
