"""`column IN values` for any number of values; used by the queries about many sessions or records at once."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, any_, literal


def among(column: Any, values: Collection[Any]) -> ColumnElement[bool]:
    """Whether the column holds one of the values, which are sent as one parameter: a query may have 65,535."""
    held: ColumnElement[bool] = column == any_(literal(list(values), ARRAY(column.type)))
    return held
