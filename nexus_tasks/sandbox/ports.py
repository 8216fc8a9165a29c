"""Finds ports for the sandbox's programs; used by whatever starts one that listens."""

import contextlib
import random
import socket

from nexus_tasks.sandbox.process_error import ProcessError

PORTS = range(10240, 32768)  # below the ephemeral ports of Linux and macOS


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on.

    It lies below the ephemeral ports: a client that tries again and again to reach a stopped server on an ephemeral
    port can end up connected to itself, and then the server cannot come back.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise ProcessError(f"No free port between {PORTS.start} and {PORTS.stop - 1}.")
