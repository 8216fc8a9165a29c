"""Which readers there are and in which order they are asked; used by `child`, in the child process only.

First those that other packages bring under the entry-point group `nexus_tasks.readers`, by name; then our own, the
special before the general. What none of them can read has the facts of any file.
"""

from collections.abc import Sequence
from importlib.metadata import entry_points

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers import basic, storage
from nexus_tasks.builder.readers.base import Dataset, Reader, UnreadableError, one_line

GROUP = "nexus_tasks.readers"


def readers() -> tuple[list[Reader], list[str]]:
    """All readers in order, and a sentence for each that does not load; raises `ImportError` without the extra."""
    from nexus_tasks.builder.readers.pictures import Pictures
    from nexus_tasks.builder.readers.rosettasciio import RosettaSciIO
    from nexus_tasks.builder.readers.ser import Ser
    from nexus_tasks.builder.readers.texts import Texts
    from nexus_tasks.builder.readers.tif import TaggedTif

    brought, problems = brought_along()
    return [*brought, Ser(), TaggedTif(), RosettaSciIO(), Pictures(), Texts()], problems


def brought_along() -> tuple[list[Reader], list[str]]:
    """The readers of other packages; one that does not load stops nothing."""
    found, problems = list[Reader](), list[str]()
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            found.append(entry.load()())
        except Exception as error:  # noqa: BLE001 it is somebody else's code
            problems.append(f"The reader {entry.name} ({entry.value}) is left out: {one_line(error)}")
    return found, problems


def read(file: DataFile, in_order: Sequence[Reader]) -> tuple[Dataset, ...]:
    """The datasets of a file, by the first reader that fits and succeeds; the facts of any file where none fits.

    Raises `UnreadableError` when readers fit and all of them fail, and `MemoryError`.
    """
    problems = []
    for reader in in_order:
        try:
            if reader.fits(file) and (datasets := tuple(reader.read(file))):
                return datasets
        except MemoryError:
            raise
        except UnreadableError as error:
            problems.append(str(error))
        except Exception as error:  # noqa: BLE001 a damaged file makes a reader raise anything
            storage.note(error)
            problems.append(f"{reader.name}: {one_line(error)}")
    if problems:
        raise UnreadableError(one_line("; ".join(problems)))
    return basic.read(file)
