"""What is known about one microscope file; the builder and `nexus-tasks inspect` enter through `FileReader`.

RosettaSciIO is GPL-3, and whatever reads files meets damaged ones: readers run in a child process. Only `base`,
`basic`, `messages`, `storage` and `isolation` are imported in the builder itself. `order` says which readers there are;
entry points of the group `nexus_tasks.readers` add to them.
"""

from nexus_tasks.builder.readers.base import Dataset, Fact
from nexus_tasks.builder.readers.isolation import FileReader, ReaderStartError

__all__ = ["Dataset", "Fact", "FileReader", "ReaderStartError"]
