"""`isogrid run` and `isogrid report` on the terminal: the plan, the progress, what is said at the end."""

from __future__ import annotations

import importlib
import os
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from isogrid.cli.flags import tidy
from isogrid.cli.output import print_json
from isogrid.core.errors import InputError, one_of
from isogrid.core.files import read_json
from isogrid.engines import ENGINES, Event
from isogrid.study.plan import Plan
from isogrid.study.planning import plan
from isogrid.study.run import Forecast, StudyError, forecast, missing, open_study, pretty_seconds, run_study, write_study_tables
from isogrid.study.spec import ModelSpec, Spec
from isogrid.study.spec.reading import read_yaml
from isogrid.study.store import Store

LOG_EVERY = 20.0
"""Seconds between two lines on the way where there is no terminal to draw a bar on."""


def carry_out(spec: Spec, out: Path, *, engine: str, workers: int | None, dry_run: bool, as_json: bool, console: Console) -> None:
    """Plan, say what it will take, run, report."""
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    if count < 1:
        raise InputError("workers", workers, "an integer >= 1")
    if engine not in ENGINES:
        raise one_of("engine", engine, ENGINES)
    out = Path(os.path.normpath(out))  # `a/../b` leads to b whether or not there is an a
    study = plan(spec)
    expected = forecast(study, out, count)
    if dry_run:
        _print_plan(study, expected, out, count, as_json)
        return
    Store(out).open()
    if changed := _changed(spec, out / "study.yaml"):
        console.print(
            f"note: {out} held a study with other {', '.join(changed)}: its finished cells stay and are used where they still apply, "
            "tables and report are made anew",
            highlight=False,
            markup=False,
        )
    source = ", ".join([spec.data.name, *map(_given_files, spec.models)])
    if not all(model.checkpoints for model in spec.models):
        source += f", {spec.seeds} seeds, {max(one.rounds for one in spec.prunings)} rounds"
    todo = f"{expected.tasks - expected.finished} of {expected.tasks} tasks to do, about {pretty_seconds(expected.seconds)}"
    console.print(Text.assemble((spec.name, "bold"), f": {source}. {todo} on {count} workers -> {out}"), highlight=False, soft_wrap=True)
    for network in study.networks:
        if network.unproved:
            console.print(f"note: {network.spec.title} has no certificates: {network.unproved}", highlight=False, markup=False)
    started, failed = time.monotonic(), None
    # the report's libraries take a second to load: that happens while the first level trains
    loading = threading.Thread(target=importlib.import_module, args=("isogrid.report",))
    loading.start()
    try:
        with _Bar(study, out, console) as bar:
            run_study(spec, out, engine=engine, workers=count, on_event=bar.event, planned=study)
    except StudyError as error:
        failed = error
    finally:
        loading.join()  # an interpreter that ends in the middle of an import prints a traceback
    from isogrid.report import build_report, print_summary

    page = build_report(out, workers=count)
    summary = read_json(out / "summary.json")
    told = Console()
    if as_json:
        print_json(summary)
        told = console
    else:
        print_summary(out, told)
    told.print(f"done in {pretty_seconds(time.monotonic() - started)}: {page}", highlight=False, markup=False)
    if failed is not None:
        raise failed


def _changed(spec: Spec, path: Path) -> list[str]:
    """The settings in which the study that stands there differs."""
    try:
        before = read_yaml(path)
    except InputError:  # none there, or nobody can say: it is written anew
        return []
    return [name for name, value in spec.resolved().items() if name in before and before[name] != value and name != "name"]


def _given_files(model: ModelSpec) -> str:
    """A model by its title, with what is known of it where its levels are files."""
    count = len(model.checkpoints)
    return model.title if not count else f"{model.title} ({count} given file{'s' if count != 1 else ''})"


def rebuild(folders: list[str], out: str | None, console: Console) -> None:
    """`isogrid report`: tables and page of one study anew, or several studies on one page."""
    from isogrid.report import build_report, compare

    target = tidy("comparison.html" if out is None else out)
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise InputError("folders", " ".join(folders), "different study folders")
    studies = [open_study(folder) for folder in folders]
    for study in studies:
        write_study_tables(study)
        page = build_report(study.folder)
    if len(studies) > 1:
        page = compare([study.folder for study in studies], target)
    console.print(str(page), highlight=False, markup=False)


class _Bar:
    """One bar over the whole study, in expected seconds; plain lines where there is no terminal."""

    def __init__(self, study: Plan, out: Path, console: Console) -> None:
        self.console = console
        self.total = sum(task.cost for task in missing(study, out))
        self.done, self.started = 0.0, time.monotonic()
        self.said = self.started
        self.running: list[str] = []
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> _Bar:
        self.progress.start()
        self.bar = self.progress.add_task("starting workers", total=max(self.total, 1e-9))
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def event(self, event: Event) -> None:
        if event.kind == "started":
            self.running.append(event.task.label)
        elif event.task.label in self.running:
            self.running.remove(event.task.label)
        if event.kind in ("finished", "failed", "skipped"):
            self.done += event.task.cost
        if event.kind in ("retried", "failed"):
            self.progress.console.print(f"{event.kind}: {event.task.label}: {event.reason}", highlight=False, markup=False)
        self.progress.update(self.bar, completed=self.done, description=self.running[-1][:60] if self.running else "tables")
        now = time.monotonic()
        if not self.console.is_terminal and now - self.said > LOG_EVERY:
            self.said, elapsed = now, now - self.started
            left = elapsed * (self.total - self.done) / max(self.done, 1e-9)
            share = f"{100 * self.done / max(self.total, 1e-9):3.0f} %"
            self.console.print(f"{share}  {pretty_seconds(elapsed)} elapsed, about {pretty_seconds(left)} left", highlight=False)


def _print_plan(study: Plan, expected: Forecast, out: Path, workers: int, as_json: bool) -> None:
    if as_json:
        kinds = {kind: {"tasks": count, "seconds": round(seconds, 1)} for kind, (count, seconds) in expected.by_kind.items()}
        plan_ = {"out": str(out), "workers": workers, "tasks": expected.tasks, "finished": expected.finished, "kinds": kinds}
        print_json(plan_ | {"seconds": round(expected.seconds, 1), "bytes": expected.bytes})
        return
    console = Console()
    table = Table(title=Text(f"{study.spec.name} -> {out}"), title_justify="left")
    for column in ("task", "to do", "expected CPU time"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for kind, (count, seconds) in expected.by_kind.items():
        table.add_row(kind, str(count), pretty_seconds(seconds))
    console.print(table)
    console.print(
        f"{expected.finished} of {expected.tasks} tasks are finished; the rest takes about {pretty_seconds(expected.seconds)} on "
        f"{workers} workers and {expected.bytes / 1e6:.0f} MB of disk. Nothing was written.",
        highlight=False,
    )
