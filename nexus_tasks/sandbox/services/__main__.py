"""Run the stand-ins until SIGTERM or SIGINT; the sandbox command starts this and reads the one line it prints."""

import argparse
import json
import signal
import sys
from pathlib import Path

from nexus_tasks.sandbox.services.standins import StandIns


def main(arguments: list[str] | None = None) -> int:
    """Start the stand-ins, print their `NX_*` settings as one line of JSON, and wait for a signal."""
    parser = argparse.ArgumentParser(prog="python -m nexus_tasks.sandbox.services", description=__doc__)
    parser.add_argument(
        "--ports", nargs=3, type=int, default=(0, 0, 0), metavar=("CDCS", "ELABFTW", "LABARCHIVES"), help="0: any free"
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--xsd", type=Path, help="the schema against which CDCS validates records")
    options = parser.parse_args(arguments)
    endings = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)  # before there are threads, so that only sigwait gets them
    try:
        stand_ins = StandIns.start(*options.ports, xsd=options.xsd, host=options.host)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"The stand-ins cannot start: {error}\n")
        return 1
    with stand_ins:
        sys.stdout.write(json.dumps(stand_ins.environment()) + "\n")
        sys.stdout.flush()
        signal.sigwait(endings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
