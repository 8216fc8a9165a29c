"""Tells whether the experiment under the number that is remembered is this session's: only such a one is changed.

Numbers alone do not tell: after eLabFTW was restored from a backup they are given once more, and another eLabFTW has
its own. What an experiment holds does: `WantedExperiment.is_this`. Used by `export`.
"""

from typing import Any

from nexus_tasks.exporters.elabftw.api import SESSION_FIELD, ELabFTWApi, session_of
from nexus_tasks.exporters.elabftw.experiment import WantedExperiment
from nexus_tasks.exporters.gone import NotOursError
from nexus_tasks.exporters.steps import Held
from nexus_tasks.exporters.written_text import unpacked


class StandingExperiment:
    """An experiment over there, read once, when something of it is to be changed."""

    def __init__(self, api: ELabFTWApi, held: Held, wanted: WantedExperiment) -> None:
        self.held = held
        self._api = api
        self._wanted = wanted
        self._read: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        """The whole experiment; raises `NotOursError`, and what `ELabFTWApi.read` raises."""
        if self._read is None:
            experiment = self._api.read(self.held.identifier)
            # what NexusLIMS made before eLabFTW 5.2 has no fields: nothing is known of its content
            if not self._wanted.is_this(experiment, named="fields" in unpacked(self.held.content)):
                carried = session_of(experiment)
                names = f"names session {carried[:60]}" if carried else f"has no {SESSION_FIELD}"
                raise NotOursError(
                    f"Experiment {self.held.identifier} in eLabFTW is another's now: it {names}",
                    "eLabFTW",
                    "NX_ELABFTW_URL",
                )
            self._read = experiment
        return self._read

    def check(self) -> None:
        """Raise as `read`, before a change that does not depend on what is there."""
        if not self.held.created:
            self.read()
