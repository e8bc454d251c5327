"""The command line. What belongs here: flags, progress, exit codes. What does not: anything that a Python user would miss."""

from __future__ import annotations

import signal
import sys
import threading

from isogrid.cli.output import open_closed


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every expected error is ONE line on stderr and exit code 2, and so is Ctrl-C (130), however early."""
    open_closed()
    pressed: list[int] = []

    def note(number: int, _: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, note)
    try:
        from isogrid.cli import app

        app.main(arguments)
    except KeyboardInterrupt:  # before the command line looks after it itself
        _interrupted()
    except Exception:  # a library that was just being imported may have made an error of its own of Ctrl-C
        if not pressed:
            raise
        _interrupted()


def _interrupted() -> None:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


__all__ = ["main"]
