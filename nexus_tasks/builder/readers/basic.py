"""What every file has, without looking inside; all that is known where no reader fits or none succeeds."""

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Dataset, Fact, file_format

# These belong to a file even where all files of an activity agree on them, so they never become instrument settings.
FILE_SIZE = "File Size"
MODIFICATION_TIME = "Modification Time"


def file_facts(file: DataFile) -> tuple[Fact, ...]:
    """Size in bytes and modification time in UTC."""
    return (
        Fact(FILE_SIZE, str(file.size), "B"),
        Fact(MODIFICATION_TIME, file.mtime.isoformat(timespec="seconds")),
    )


def read(file: DataFile) -> tuple[Dataset, ...]:
    """One dataset of unknown type."""
    return (
        Dataset(
            name=file.path.name,
            location=file.location,
            format=file_format(file),
            type="Unknown",
            acquired=None,
            facts=file_facts(file),
            preview=None,
            reader="basic",
        ),
    )
