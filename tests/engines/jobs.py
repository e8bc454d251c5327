"""Functions that workers import by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def touch(path: str, after: list[str] | None = None, seconds: float = 0.0) -> None:
    assert all(Path(need).exists() for need in after or [])
    time.sleep(seconds)
    Path(path).write_text(str(os.getpid()))


def boom(message: str) -> None:
    raise ValueError(message)


def die_until(path: str, times: int) -> None:
    """Die by SIGKILL the first `times` times, then succeed."""
    counter = Path(path)
    count = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(count + 1))
    if count < times:
        os.kill(os.getpid(), signal.SIGKILL)


def parent(path: str) -> None:
    """Write the process that this worker was forked from."""
    Path(path).write_text(str(os.getppid()))


def environment(path: str, name: str) -> None:
    Path(path).write_text(os.environ.get(name, ""))


def loaded(path: str, module: str) -> None:
    """Write whether this worker has a module without having asked for it."""
    Path(path).write_text(str(module in sys.modules))
