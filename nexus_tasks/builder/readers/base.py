"""The words that readers answer in: datasets and their facts; everything in the builder that follows uses them."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Literal

from nexus_tasks.builder.files import DataFile

ACQUISITION_TIME = "Acquisition Time"  # a fact where the file itself says when

DatasetType = Literal["Image", "Spectrum", "SpectrumImage", "Diffraction", "Unknown", "Misc"]


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
    reader: str  # what read it: "basic", "pictures", or the name of a RosettaSciIO plugin
    problem: str | None = None  # why it could not be read in full, in one line


class UnreadableError(Exception):
    """None of the readers for a file's extension could read it; the message says what each of them found."""


def file_format(file: DataFile) -> str:
    """The format as records name it: the extension in upper case, or "Unknown"."""
    return file.path.suffix[1:].upper() or "Unknown"


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """An error as one line of at most `limit` characters, for `Dataset.problem`."""
    text = " ".join(str(error).split())
    if isinstance(error, BaseException):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
