"""The command line. What belongs here: flags, progress, exit codes. What does not: anything that a Python user would miss."""

from isogrid.cli.app import main

__all__ = ["main"]
