"""Chaos: everything dies at random moments, and every record must still be everywhere exactly once.

`python -m tests.chaos` runs the scenarios on real processes and prints one table; see `--help`.
"""
