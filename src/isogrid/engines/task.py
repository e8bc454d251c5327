"""What an engine runs, and what it reports. An engine knows nothing of models or attacks: it runs a graph of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One cell of a study.

    `function(**arguments)` runs in a worker and stores its own result, whole or not at all, under `key`. `needs` are the keys that
    must be finished before. `threads` belong to the key's configuration. `cost` is the expected time in seconds, used for order,
    forecasts and progress only.
    """

    key: str
    label: str
    function: Callable[..., None]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    threads: int = 1
    cost: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a task: it started, finished, was retried after its worker died, failed, or lost a need."""

    kind: Literal["started", "finished", "retried", "failed", "skipped"]
    task: Task
    reason: str = ""


def by_urgency(tasks: list[Task]) -> dict[str, float]:
    """Seconds from the start of each task to the end of the longest chain that hangs on it: the order in which to start them."""
    dependents: dict[str, list[str]] = {task.key: [] for task in tasks}
    for task in tasks:
        for need in task.needs:
            if need in dependents:
                dependents[need].append(task.key)
    cost = {task.key: task.cost for task in tasks}
    urgency: dict[str, float] = {}
    for task in reversed(_ordered(tasks)):
        urgency[task.key] = cost[task.key] + max((urgency[k] for k in dependents[task.key]), default=0.0)
    return urgency


def _ordered(tasks: list[Task]) -> list[Task]:
    """Needs before dependents; raises ValueError on a cycle."""
    waiting = {task.key: task for task in tasks}
    done: set[str] = set()
    order: list[Task] = []
    while waiting:
        ready = [task for task in waiting.values() if all(n in done or n not in waiting for n in task.needs)]
        if not ready:
            raise ValueError(f"tasks need each other in a cycle: {', '.join(sorted(waiting))}")
        for task in ready:
            done.add(task.key)
            del waiting[task.key]
        order += ready
    return order
