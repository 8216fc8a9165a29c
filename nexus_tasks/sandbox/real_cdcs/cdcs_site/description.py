"""Reads `site.json`: what `nexus_tasks.sandbox.real_cdcs.server` decided about this site. Called by the site itself."""

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["CDCS_SITE_FOLDER"])


def read() -> dict[str, Any]:
    """Its keys are those of `server.Site`."""
    description: dict[str, Any] = json.loads((FOLDER / "site.json").read_text(encoding="utf-8"))
    return description
