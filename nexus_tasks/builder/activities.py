"""Splits the files of a session into acquisition activities; called by `record.build_record`.

The rule looks for pauses: somebody who changes the sample or the mode writes nothing for much longer than between two
pictures. It gives the same groups as kernel-density clustering on nearly all real sessions, and does not split bursts.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from nexus_tasks.builder.files import DataFile

SHORTEST_PAUSE = 300.0  # seconds: anything shorter is handling, not a new activity
PAUSE_FACTOR = 10.0  # how much longer than the usual gap between two files a pause is


def group(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """The activities of a session in time order, each a list of its files sorted by modification time, then path."""
    ordered = sorted(files, key=lambda file: (file.mtime, file.path))
    if not ordered:
        return []
    gaps = [(later.mtime - earlier.mtime).total_seconds() for earlier, later in pairwise(ordered)]
    pause = max(SHORTEST_PAUSE, PAUSE_FACTOR * median(gaps)) if gaps else SHORTEST_PAUSE
    activities = [[ordered[0]]]
    for gap, file in zip(gaps, ordered[1:], strict=True):
        if gap > pause:
            activities.append([])
        activities[-1].append(file)
    return activities
