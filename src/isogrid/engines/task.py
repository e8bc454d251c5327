"""What an engine runs, and what it reports. An engine knows nothing of models or attacks: it runs a graph of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One cell of a study.

    `function(**arguments)` runs in a worker and stores its own result, whole or not at all, under `key`. `needs` are the keys that
    must be finished before. `threads` belong to the key's configuration, `gpus` it has to have beside them. `cost` is the expected
    time in seconds, used for order,    forecasts and progress only.
    """

    key: str
    label: str
    function: Callable[..., None]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    threads: int = 1
    gpus: int = 0
    cost: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a task: it started, finished, was retried after its worker died, failed, or lost a need."""

    kind: Literal["started", "finished", "retried", "failed", "skipped"]
    task: Task
    reason: str = ""


class Engine(Protocol):
    """Runs a graph of tasks with so many workers, tells what happens, and returns the failures in the order of the tasks."""

    def __call__(self, tasks: Iterable[Task], *, workers: int, on_event: Callable[[Event], None]) -> list[Event]: ...
