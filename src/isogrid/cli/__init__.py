"""The command line. What belongs here: flags, progress, exit codes. What does not: anything that a Python user would miss."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every expected error is ONE line on stderr and exit code 2, and so is Ctrl-C (130), however early."""
    try:
        from isogrid.cli import app

        app.main(arguments)
    except KeyboardInterrupt:  # before the command line looks after it itself
        print("interrupted", file=sys.stderr)
        sys.exit(130)


__all__ = ["main"]
