"""How eLabFTW searches: patterns of its database, and the one extended query that is known here; for `experiments`."""

import re

from nexus_tasks.sandbox.services.elabftw.answers import refuse


def like(pattern: str) -> re.Pattern[str]:
    r"""A MySQL LIKE pattern: `%` any text, `_` any character, `\` makes the next one ordinary, case ignored."""
    wildcards = {"%": ".*", "_": "."}
    tokens = re.findall(r"\\.|.", pattern, re.DOTALL)
    regex = "".join(wildcards.get(token) or re.escape(token.removeprefix("\\") or token) for token in tokens)
    return re.compile(regex, re.IGNORECASE | re.DOTALL)


def extra_field_search(query: str) -> tuple[str, str, bool]:
    """The name and the value that an extended query asks for, and whether it is strict; raises `Refused`."""
    quoted = r"(?:\"([^\"]*)\"|'([^']*)')"
    match = re.fullmatch(rf"\s*extrafield:(s:)?{quoted}:{quoted}\s*", query)
    if match is None:
        refuse(400, 'Error in the extended search query: the stand-in knows extrafield:s:"name":"value" only.')
    return match[2] or match[3] or "", match[4] or match[5] or "", match[1] is not None
