"""For authors of destinations: the tests that every destination passes, and a record to try one with.

Used by tests only; needs pytest. `docs/plugins.md` shows how.
"""

from nexus_tasks.testing.conformance import DestinationConformance
from nexus_tasks.testing.sample import sample_context

__all__ = ["DestinationConformance", "sample_context"]
