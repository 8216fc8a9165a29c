"""How fast LabArchives lets its clients call; `service` asks before each call."""

from enum import StrEnum

SHORTEST_INTERVAL = 1.0  # seconds from the start of one call to that of the next


class Pacing(StrEnum):
    """Which calls are answered with an error (429) for coming too fast; the provider asks for one of the two."""

    SERIAL = "serial"  # a call beside another one
    INTERVAL = "interval"  # a call sooner than so many seconds after the start of the one before
    EITHER = "either"  # a call that keeps to neither of the two
