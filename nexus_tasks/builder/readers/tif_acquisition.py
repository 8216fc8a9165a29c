"""The words in which `tif` and the modules of the vendors speak: tags, and what they say of an acquisition."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nexus_tasks.builder.readers.base import Fact


@dataclass(frozen=True)
class Tags:
    """The tags of the first picture of a tif file."""

    values: Mapping[int, Any]

    def document(self, code: int) -> bytes | str:
        """A tag that holds bytes, or text in an encoding that is understood; empty for anything else."""
        value = self.values.get(code)
        return value if isinstance(value, bytes | str) else b""

    def line(self, code: int) -> str:
        """A tag that holds a line of text, empty when it is missing."""
        value = self.values.get(code)
        return value.strip("\0 ") if isinstance(value, str) else ""

    @property
    def saved(self) -> datetime | None:
        """When the file was written, by the computer's clock."""
        try:
            return datetime.strptime(self.line(306), "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007 the tag has no zone
        except ValueError:
            return None


@dataclass(frozen=True)
class TifAcquisition:
    """What a vendor's tag says."""

    vendor: str
    facts: tuple[Fact, ...]
    acquired: datetime | None  # None where only the file's own date is known
    pixel_size: tuple[float, float] | None = None  # metres, down and across
    diffraction: bool = False
