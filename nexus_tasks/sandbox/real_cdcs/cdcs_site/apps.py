"""Teaches SQLite the one question that CDCS asks of it and only PostgreSQL can answer; found by Django."""

# mypy: disable-error-code=import-not-found
# because Django is not installed where types are checked

import json
from typing import Any

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class CdcsSiteConfig(AppConfig):  # type: ignore[misc]  # its base is not there where types are checked
    """The application `cdcs_site`."""

    name = "cdcs_site"

    def ready(self) -> None:
        """Called once, when Django is set up."""
        connection_created.connect(_teach)


def _teach(connection: Any, **_: Any) -> None:
    """`contains` on a JSON column; without it a record's page is an error for whoever may change the record."""
    connection.connection.create_function("JSON_CONTAINS", 2, _contains, deterministic=True)
    connection.features.supports_json_field_contains = True


def _contains(column: str | None, wanted: str) -> bool:
    """CDCS only ever asks whether a list holds a word."""
    return column is not None and json.loads(wanted) in json.loads(column)
