"""Flower's configuration, read with `flower --conf=…`: nobody gets in without a password.

`NX_SECRETS_DIR/flower_password` holds a line `user:password`; without it Flower does not start.
"""

# ruff: noqa: INP001 - Flower reads it as a file, it is in no package
import os
from pathlib import Path

basic_auth = [(Path(os.environ["NX_SECRETS_DIR"]) / "flower_password").read_text(encoding="utf-8").strip()]
if len(basic_auth[0].partition(":")[2]) < 12:
    raise SystemExit("The secret flower_password must be user:password, the password 12 characters or longer.")
