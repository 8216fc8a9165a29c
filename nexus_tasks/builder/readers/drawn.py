"""The preview of a signal, or why there is none; used by the readers that have pixel data. Child process only."""

from collections.abc import Callable
from typing import Any

from nexus_tasks.builder.drawing import preview
from nexus_tasks.builder.readers import storage
from nexus_tasks.builder.readers.base import one_line
from nexus_tasks.builder.readers.layout import Layout


def drawn(
    data: Callable[[], Any], layout: Layout, *, quantity: str = "", diffraction: bool = False
) -> tuple[bytes | None, str | None]:
    """The preview and None, or None and the problem: what lies behind a header may be damaged, missing or too large.

    `data` gives the array, lazily read where it is large. The facts are known by then, and stay. `quantity` and
    `diffraction` are those of `preview.render`.
    """
    try:
        return preview.render(data(), layout, quantity=quantity, diffraction=diffraction), None
    except MemoryError:
        return None, "its data cannot be shown: they need more memory than reading a file may take"
    except Exception as error:  # noqa: BLE001 data fail here, with anything
        storage.note(error)
        return None, f"its data cannot be shown: {one_line(error)}"
