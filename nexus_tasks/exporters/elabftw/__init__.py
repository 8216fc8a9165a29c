"""eLabFTW: its calls, what it holds of a record, and what is checked there; used by `export`."""
