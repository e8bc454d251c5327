"""Engines run graphs of tasks; they know nothing else. A new engine is a file and a row of `ENGINES`."""

from isogrid.engines import local
from isogrid.engines.task import Engine, Event, Task

ENGINES: dict[str, Engine] = {"local": local.run}
"""By the name that a user writes."""

__all__ = ["ENGINES", "Engine", "Event", "Task"]
