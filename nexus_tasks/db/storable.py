"""Makes what plugins and services say fit for PostgreSQL and JSON; called where an attempt's end is written."""

import json
import re
from typing import Any

# PostgreSQL's text holds neither NUL nor half a surrogate pair
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


def storable_text(text: str, longest: int) -> str:
    """The text without what cannot be stored, at most `longest` characters."""
    return _NOT_STORABLE.sub("\N{REPLACEMENT CHARACTER}", text)[:longest]


def storable_json(value: Any) -> Any:
    """The value as JSON can carry it: dates, paths and other objects as their text, keys as text."""
    if isinstance(value, dict):
        return {storable_json(str(key)): storable_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [storable_json(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if json.dumps(value) not in {"NaN", "Infinity", "-Infinity"} else str(value)
    return _NOT_STORABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))
