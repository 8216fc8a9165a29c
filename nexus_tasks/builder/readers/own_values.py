"""What a program wrote beyond the vocabulary, under its own names and bounded; every reader ends its facts with these.

A record holds the facts of every dataset: a few kilobytes of them tell what somebody may ask later, a whole tag tree of
a megabyte would bury the rest.
"""

from collections.abc import Iterable

from nexus_tasks.builder.readers.base import Fact
from nexus_tasks.builder.readers.vocabulary import Value, as_number, number, spelled, text

MOST_VALUES = 40  # of one dataset, the first that the file names
LONGEST_VALUE = 80  # characters; longer texts are lists, paths and scripts, and are left out whole
LONGEST_NAME = 80


def own_values(vendor: str, values: Iterable[Value]) -> tuple[Fact, ...]:
    """The first values that are short and say something, named "vendor: name", each name once."""
    kept: dict[str, Fact] = {}
    for one in values:
        name = f"{vendor}: {' '.join(one.name.split())}"
        as_read = as_number(one.value)
        # Numbers as the file writes them, where it writes text: 0.0000000015625 is no place to save digits.
        written = number(as_read) if as_read is not None and not isinstance(one.value, str) else text(one.value)
        if name in kept or not written or len(written) > LONGEST_VALUE or len(name) > LONGEST_NAME:
            continue
        kept[name] = Fact(name, written, spelled(one.unit))
        if len(kept) == MOST_VALUES:
            break
    return tuple(kept.values())
