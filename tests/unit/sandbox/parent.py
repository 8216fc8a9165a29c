"""A program with a child, to be started and ended; the tests of the sandbox's processes use it."""

import sys
from pathlib import Path

import psutil

from nexus_tasks.sandbox.managed_process import ManagedProcess

# Starts a child, prints its pid, and waits; {} is what happens before.
PARENT = """
import signal, subprocess, sys, time
{}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def parent(folder: Path, before: str = "", grace: float = 5) -> ManagedProcess:
    process = ManagedProcess(
        "parent",
        [sys.executable, "-u", "-c", PARENT.format(before)],
        folder,
        ready=lambda: "child" in process.logs_since_start(),
        grace=grace,
    )
    return process


def child_of(process: ManagedProcess) -> int:
    return int(process.logs_since_start().split()[1])


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
