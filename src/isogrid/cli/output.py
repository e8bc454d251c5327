"""Where the command line's output goes: stdout that is closed, stdout that holds JSON and nothing else. Not here: what is said."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

STDOUT, STDERR = 1, 2


def open_closed() -> None:
    """Give a process that was started with stdout or stderr closed (`>&-`) /dev/null in its place.

    Python has None there, which cannot be flushed; and the next file to be opened would get the number that C's output goes to.
    """
    for name, number in (("stdout", STDOUT), ("stderr", STDERR)):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)  # somebody has opened a file since
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)  # inherited by child processes
            if null != number:
                os.close(null)
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


@contextlib.contextmanager
def reserved(wanted: bool) -> Iterator[None]:
    """Where `wanted`, what the block prints goes to stderr, by Python, C and child processes alike; `print_json` alone has stdout."""
    if not wanted:
        yield
        return
    stream = sys.stdout
    stream.flush()
    number = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    sys.stdout = sys.stderr
    _reserved.append((stream, number))
    try:
        yield
    finally:
        _reserved.pop()
        sys.stdout = stream
        os.dup2(number, STDOUT)
        os.close(number)


_reserved: list[tuple[TextIO, int]] = []
"""What stdout was outside each `reserved` block: Python's stream, and a descriptor of what C writes to."""


def print_json(value: Any) -> None:
    """Print `value` as JSON to stdout, reserved or not."""
    text = json.dumps(value, indent=1, allow_nan=False)
    if not _reserved:
        print(text)
        return
    stream, number = _reserved[-1]
    os.dup2(number, STDOUT)
    try:
        print(text, file=stream, flush=True)
    finally:
        os.dup2(STDERR, STDOUT)


__all__ = ["open_closed", "print_json", "reserved"]
