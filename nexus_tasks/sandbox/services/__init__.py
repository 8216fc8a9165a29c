"""Stand-ins for CDCS, eLabFTW and LabArchives on loopback, strict and fallible, for the demo, the sandbox and tests.

`StandIns` starts them in this process, `python -m nexus_tasks.sandbox.services` in one of their own; `client` asks
running ones what they hold and makes them fail.
"""

from nexus_tasks.sandbox.services.faults import Fault, FaultKind
from nexus_tasks.sandbox.services.standins import StandIns

__all__ = ["Fault", "FaultKind", "StandIns"]
