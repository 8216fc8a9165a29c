"""What every file has, without looking inside; all that is known where no reader fits or none succeeds."""

from datetime import tzinfo

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.base import Dataset, Fact, file_format

# These belong to a file even where all files of an activity agree on them, so they never become instrument settings.
FILE_SIZE = "File Size"
MODIFICATION_TIME = "Modification Time"


def file_facts(file: DataFile, zone: tzinfo) -> tuple[Fact, ...]:
    """Size in bytes and modification time by the clocks of `zone`; `isolation` gives them to every dataset."""
    return (
        Fact(FILE_SIZE, str(file.size), "B"),
        Fact(MODIFICATION_TIME, file.mtime.astimezone(zone).isoformat(timespec="seconds")),
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
            facts=(),
            preview=None,
            reader="basic",
        ),
    )
