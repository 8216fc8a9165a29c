"""The words that readers answer in, datasets and their facts, and the interface of a reader.

Everything in the builder that follows uses the words. Who adds a reader implements `Reader` and names the class under
the entry-point group `nexus_tasks.readers`; nothing else of this package needs to be known.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Literal, Protocol

from nexus_tasks.builder.files import DataFile

ACQUISITION_TIME = "Acquisition Time"  # a fact where the file itself says when
LONGEST_PROBLEM = 300  # characters

DatasetType = Literal["Image", "Spectrum", "SpectrumImage", "Diffraction", "Notes", "Misc", "Unknown"]


@dataclass(frozen=True)
class Fact:
    """One named value of a dataset, ready to be shown."""

    name: str
    value: str
    unit: str | None = None


@dataclass(frozen=True)
class Dataset:
    """One dataset of a file; most files hold one."""

    name: str
    location: PurePosixPath  # of its file, relative to the data root
    format: str
    type: DatasetType
    acquired: datetime | None  # by the instrument's clock; the modification time where the file says nothing
    facts: tuple[Fact, ...]
    preview: bytes | None  # PNG
    reader: str  # what read it: a reader's name, or that of the RosettaSciIO plugin
    problem: str | None = None  # why it could not be read in full, in one line


class Reader(Protocol):
    """One way to read files. Its methods are called in the child process only, where they may fail in any way.

    `name` tells readers apart in records and messages. Readers are asked in order (see `order`); the first that fits a
    file and reads it without raising answers for all of it.
    """

    name: str

    def fits(self, file: DataFile) -> bool:
        """Whether it is worth a try: by extension and, where that says too little, by a look at the first bytes."""

    def read(self, file: DataFile) -> Iterable[Dataset]:
        """One dataset for each signal in the file, at least one.

        Data are read lazily: a file of any size is read with little memory. `location` and the facts that every file
        has need no care. Times without zone mean the instrument's; the process itself runs in UTC. Raises anything for
        what it cannot read; a dataset whose facts are known and whose data are damaged is better returned with a
        `problem`. An `OSError` is best let through: it tells a share that fails from a damaged file.
        """


class DamagedFileError(Exception):
    """What is wrong with a file, in a reader's own plain words."""


class UnreadableError(Exception):
    """None of the readers for a file's extension could read it; the message says what each of them found."""


def file_format(file: DataFile) -> str:
    """The format as records name it: the extension in upper case, or "Unknown"."""
    return file.path.suffix[1:].upper() or "Unknown"


def one_line(error: BaseException | str) -> str:
    """An error as one line of at most `LONGEST_PROBLEM` characters, for `Dataset.problem`."""
    text = " ".join(str(error).split())
    if isinstance(error, struct.error | EOFError):
        error = text = f"it ends too early, or is damaged ({text})" if text else "it ends too early"
    if isinstance(error, BaseException) and not isinstance(error, DamagedFileError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST_PROBLEM else text[: LONGEST_PROBLEM - 1] + "…"
