"""Engines run graphs of tasks; they know nothing else."""

from isogrid.engines.task import Event, Task

__all__ = ["Event", "Task"]
