"""Brings records to their destinations.

What to do is decided in `plan`, `strategy`, `retry`, `freeze`, `digest`, `health` and `recovery` (pure) and done in the
others: a record comes in through `export_records` (`enqueue`), goes out through `dispatch` as a Celery canvas, is
tried in `tasks` and `attempt`, judged in `settle`, put away by `archive`.
"""
