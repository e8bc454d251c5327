"""The local engine: worker processes on this machine. A worker that dies takes nothing with it but its task's unfinished work.

Workers are forked from one server process that has imported this package's part of the tasks and run nothing (Python's own default since
3.14; libraries that started threads of their own there, OpenBLAS and jemalloc, look after forks): hundreds of megabytes of libraries are
read once and shared, and a worker starts in a tenth of a second instead of three. A worker has the environment variables of the moment it
was hired; what a library reads from them while it is loaded was read when the server started.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType
from typing import Final

from isogrid.core.errors import IsogridError
from isogrid.engines.graph import Graph
from isogrid.engines.task import Event, Task

OnEvent = Callable[[Event], None]
_TRACING: Final = ("torch.export._trace",)  # loaded when torch.export first traces a network: 1.5 s that every worker would pay anew


def warm_up(modules: Iterable[str]) -> None:
    """Start the server that workers are forked from, and let it import `modules`, while this process goes on; the first call counts."""
    multiprocessing.set_forkserver_preload([*modules, *_TRACING])
    resource_tracker.ensure_running()  # it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C during its imports would print them
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def abandon() -> None:
    """End the server at once, in the middle of its imports even: nothing will be run, and it holds this process's output open."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run(tasks: Iterable[Task], *, workers: int = 1, on_event: OnEvent = lambda event: None) -> list[Event]:
    """Run a graph of tasks in `workers` processes and return the failures, in the order of the tasks.

    Needs that are not among `tasks` count as finished. A task whose worker dies is retried once; a task that fails, by its own
    exception or by a second death, takes the tasks that need it with it, and the rest goes on. What a task computes cannot depend
    on the number of workers: each gets its own process state, its own threads and its seeds from its arguments.
    """
    graph = Graph(list(tasks))
    crew: list[_Worker] = []
    context = multiprocessing.get_context("forkserver")
    modules = dict.fromkeys(task.function.__module__ for task in graph.tasks)
    warm_up(module for module in modules if module.split(".")[0] == __name__.split(".")[0])  # others may be edited, or fail there
    failures: dict[str, Event] = {}
    deaths: dict[str, int] = {}

    def settle(event: Event) -> None:
        if event.kind == "failed":
            failures[event.task.key] = event
            on_event(event)
            for lost in graph.fail(event.task):
                skipped = Event(kind="skipped", task=lost, reason=f"needs {event.task.label}, which failed")
                failures[lost.key] = skipped
                on_event(skipped)
        else:
            graph.finish(event.task)
            on_event(event)

    try:
        while not graph.empty:
            for worker in _idle(crew, context, min(workers, graph.ready_count)):
                task = graph.next()
                if task is None:
                    break
                worker.start(task)
                on_event(Event(kind="started", task=task))
            busy = [worker for worker in crew if worker.task is not None]
            for ready in wait([w.pipe for w in busy]):
                worker = next(w for w in busy if w.pipe is ready)
                task, reason, trace = worker.collect()
                if trace:  # printed here: a worker's own stderr may lead anywhere
                    print(trace, end="", file=sys.stderr)
                if reason == _DIED:
                    crew.remove(worker)
                    deaths[task.key] = deaths.get(task.key, 0) + 1
                    if deaths[task.key] == 1:
                        graph.again(task)
                        on_event(Event(kind="retried", task=task, reason=f"its worker died ({worker.exit_reason()})"))
                    else:
                        settle(Event(kind="failed", task=task, reason=f"its worker died twice ({worker.exit_reason()})"))
                else:
                    settle(Event(kind="failed" if reason else "finished", task=task, reason=reason))
    finally:
        for worker in crew:
            worker.stop()
    return [failures[task.key] for task in graph.tasks if task.key in failures]


_DIED = "\0died"


@dataclass(slots=True)
class _Worker:
    process: ForkServerProcess
    pipe: Connection
    task: Task | None = None

    def start(self, task: Task) -> None:
        self.task = task
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died idle; `collect` sees the closed pipe
            self.pipe.send(task)

    def collect(self) -> tuple[Task, str, str]:
        """The task, the reason of its failure or '', and the traceback of an exception that was not expected."""
        task = self.task
        assert task is not None
        self.task = None
        try:
            return task, *self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return task, _DIED, ""

    def exit_reason(self) -> str:
        code = self.process.exitcode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(0.2 if self.task is None else 0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _idle(crew: list[_Worker], context: ForkServerContext, wanted: int) -> list[_Worker]:
    """Workers without a task, after hiring up to `wanted` in all."""
    while len(crew) < wanted:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, dict(os.environ)), daemon=True)
        with without_script():
            process.start()
        theirs.close()
        crew.append(_Worker(process, ours))
    return [worker for worker in crew if worker.task is None]


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Processes started in this context do not run the user's script again: they need nothing of it, and it may lack the main guard."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _work(pipe: Connection, environment: dict[str, str]) -> None:
    """A worker's life: receive a task, run it, answer with the reason of its failure and its traceback; end with the study's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else what cuBLAS adds up first depends on who else is on the device
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _speak_aside()
    import torch  # not needed to start and watch workers, and slow

    from isogrid.core.process import settings_kept

    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, ConnectionError):
            os._exit(0)
        if torch.get_num_threads() != task.threads:
            torch.set_num_threads(task.threads)
        try:
            if task.gpus and not torch.cuda.is_available():
                raise IsogridError("device: got cuda, which this worker cannot use; accepted: cpu, or a machine with a CUDA device")
            torch.use_deterministic_algorithms(task.gpus > 0, warn_only=True)
            with settings_kept():  # a user's network or cell may leave the folder, say, and later tasks read relative paths
                task.function(**task.arguments)
            reason = trace = ""
        except IsogridError as error:
            reason, trace = str(error), ""
        except OSError as error:  # a full disk, say: what is there is whole, and the same command goes on from it
            where = f" ({error.filename})" if error.filename else ""
            reason, trace = f"{error.strerror or error}{where}: mend that and run the same command again", ""
        except Exception as error:  # a failing cell must not end the study: it is reported with its place
            last = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
            trace = traceback.format_exc()
        try:
            pipe.send((reason, trace))
        except (BrokenPipeError, ConnectionError):
            os._exit(0)


def _speak_aside() -> None:
    """What tasks print, by Python, C or child processes, goes to stderr: stdout is the study's own process's."""
    if sys.stdout is not None and sys.stderr is not None:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        sys.stdout = sys.stderr


def _die_with_parent() -> None:
    """End at once when the study's process is gone, even by kill -9: no orphan computes on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
