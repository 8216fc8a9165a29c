"""CDCS: its calls, the schema that it judges by, and what is checked there; used by `export`."""
