"""What is known about one microscope file; the builder and `nexus-tasks inspect` enter through `FileReader`.

RosettaSciIO is GPL-3 and its readers meet damaged files: they run in a child process, and `rosettasciio`, `pictures`,
`preview` and `child` are imported there only.
"""

from nexus_tasks.builder.readers.base import Dataset, Fact
from nexus_tasks.builder.readers.isolation import FileReader, ReaderStartError

__all__ = ["Dataset", "Fact", "FileReader", "ReaderStartError"]
