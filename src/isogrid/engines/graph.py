"""The graph of tasks: which wait, which are ready, which run, and in which order. Every engine runs this one; none is here."""

from __future__ import annotations

from isogrid.engines.task import Task


class Graph:
    """Which tasks are waiting, ready, running; the most urgent ready task first, then the order given."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = tasks
        urgency = by_urgency(tasks)
        self._place = {task.key: (-urgency[task.key], place) for place, task in enumerate(tasks)}
        self._open = {task.key: task for task in tasks}
        self._running: set[str] = set()

    @property
    def empty(self) -> bool:
        return not self._open

    def _ready(self) -> list[Task]:
        return [t for t in self._open.values() if t.key not in self._running and not any(need in self._open for need in t.needs)]

    @property
    def ready_count(self) -> int:
        return len(self._ready()) + len(self._running)

    def next(self) -> Task | None:
        task = min(self._ready(), key=lambda t: self._place[t.key], default=None)
        if task is not None:
            self._running.add(task.key)
        return task

    def finish(self, task: Task) -> None:
        self._running.discard(task.key)
        self._open.pop(task.key, None)

    def again(self, task: Task) -> None:
        self._running.discard(task.key)

    def fail(self, task: Task) -> list[Task]:
        """Drop the task and all that needs it, however far; returns the latter."""
        gone = {task.key}
        self.finish(task)
        lost: list[Task] = []
        while found := [t for t in self._open.values() if gone.intersection(t.needs)]:
            for t in found:
                gone.add(t.key)
                self.finish(t)
            lost += found
        return lost


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
