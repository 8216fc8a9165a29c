"""How an installation of eLabFTW is set up, and what differs between releases; `service` gives it to the calls."""

from dataclasses import dataclass, field

VERSION = 50311  # 5.3.11
CREATES_WITH_BODY = 50200  # the release from which POST takes body and metadata
TELLS_TEAM_OF_KEY = 50100  # the release from which a key is listed with its team

READ_ONLY_API_KEY = "8-sandbox-elabftw-read-only-key"  # may read; every other call is refused


@dataclass(frozen=True)
class Installation:
    """One installation, as `Elabftw` describes it."""

    api_key: str = field(repr=False)
    version: int
    user_create_tag: bool
    force_exp_tpl: bool
