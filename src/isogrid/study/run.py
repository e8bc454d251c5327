"""Running a study in a folder: plan, lock, run what is missing, write the tables. And opening what was run."""

from __future__ import annotations

import fcntl
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from isogrid.core.errors import InputError, IsogridError, one_of
from isogrid.core.files import write_text
from isogrid.core.parameters import require_whole
from isogrid.core.targets import refuse_while_loading
from isogrid.engines import ENGINES, Event, Task
from isogrid.study.cells import Cell, Train
from isogrid.study.plan import LevelPlan, Plan, read_plan
from isogrid.study.planning import plan
from isogrid.study.spec import Spec
from isogrid.study.store import Store
from isogrid.study.tables import write_tables

WORKER_START_SECONDS = 4.0
"""Starting a worker and importing torch; for the forecast only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a study still has to do: tasks, of those finished, seconds on `workers` workers, bytes of disk."""

    tasks: int
    finished: int
    seconds: float
    bytes: int
    by_kind: dict[str, tuple[int, float]]


def run_cell(root: str, cell: Cell) -> None:
    """What a task of a study does, in whichever process."""
    cell.run(Store(Path(root)))


def tasks(study: Plan, root: Path) -> list[Task]:
    """A task for every cell of a study in folder `root`."""
    pace = {network.data.key + network.model.name: network.pace for network in study.networks}

    def of(cell: Cell) -> float:
        trained = next(one for one in (cell, *cell.needs) if isinstance(one, Train))
        return pace[trained.data.key + trained.model.name]

    return [
        Task(
            key=cell.key,
            label=cell.label,
            function=run_cell,
            arguments={"root": str(root), "cell": cell},
            needs=tuple(dict.fromkeys(need.key for need in cell.needs)),
            threads=cell.threads,
            gpus=int(cell.device != "cpu"),
            cost=cell.cost(of(cell)),
        )
        for cell in study.cells
    ]


def missing(study: Plan, root: Path) -> list[Task]:
    """The tasks whose cells are not there yet."""
    store = Store(root)
    return [task for task in tasks(study, root) if not store.finished(task.key)]


def forecast(study: Plan, root: Path, workers: int) -> Forecast:
    """The expected time and disk of what is missing, from a measured gradient per model."""
    todo = missing(study, root)
    kinds: dict[str, tuple[int, float]] = {}
    for task in todo:
        kind = task.key.split("-")[0]
        count, seconds = kinds.get(kind, (0, 0.0))
        kinds[kind] = (count + 1, seconds + task.cost)
    work = sum(seconds for _, seconds in kinds.values())
    weights = max((network.weights for network in study.networks), default=0)
    trained, other = kinds.get("train", (0, 0))[0], len(todo) - kinds.get("train", (0, 0))[0]
    return Forecast(
        tasks=len(study.cells),
        finished=len(study.cells) - len(todo),
        seconds=work / workers + (WORKER_START_SECONDS if todo else 0.0),
        bytes=trained * (5 * weights + 40_000) + other * 70_000,
        by_kind=kinds,
    )


def run_study(
    spec: Spec,
    out: str | Path,
    *,
    workers: int = 1,
    engine: str = "local",
    on_event: Callable[[Event], None] = lambda event: None,
    planned: Plan | None = None,
) -> Study:
    """Run what is missing of a study in folder `out` and write its tables; continue where an earlier run stopped.

    Cells are keyed by all of their configuration, so nothing finished is computed twice and no cell of another configuration is
    used. Raises InputError for unusable input before anything is written; and StudyError where tasks failed, after all others have
    finished and the tables have been written.
    """
    refuse_while_loading("run_study(...)")
    if not isinstance(spec, Spec):
        raise InputError("spec", type(spec).__name__, "a specification: Spec.parse({...}), Spec.read(path) or Spec.preset(name)")
    out = _folder("out", out)
    count = require_whole("workers", workers)
    assert count is not None
    if not isinstance(engine, str) or engine not in ENGINES:
        raise one_of("engine", str(engine), ENGINES)
    study = planned or plan(spec)
    store = Store(out)
    store.open()
    with _locked(out):
        for leftover in store.cells.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for network in study.networks:
            network.data.run(store)
        write_text(out / "study.yaml", spec.text())
        study.write(out)
        failures = ENGINES[engine](missing(study, out), workers=count, on_event=on_event)
        write_tables(study, store, failures)
    if failures:
        raise StudyError(Study(out, study), failures)
    return Study(out, study)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One run per folder at a time; the lock goes with the process, however it ends."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError("out", str(out), "a folder in which no other isogrid run is at work") from None
        yield


class Study:
    """A study folder, opened: its tables and its networks."""

    def __init__(self, folder: Path, planned: Plan) -> None:
        self.folder = folder
        self.store = Store(folder)
        self.plan = planned
        self.spec = planned.spec

    def frontier(self) -> pd.DataFrame:
        """The tidy table of all figures, one row per value."""
        return pd.read_parquet(self.folder / "frontier.parquet")

    def model(self, seed: int = 0, level: int = 0, model: str | None = None, method: str | None = None) -> nn.Module:
        """The network of one level as a plain nn.Module in eval mode, its dead weights exactly zero.

        Raises InputError for a level that is not there, and where a factory's file is not the one that the study was run with.
        """
        return self._level(seed, level, model, method).train.restore(self.store)

    def records(self, attack: str, seed: int = 0, level: int = 0, model: str | None = None, method: str | None = None) -> pd.DataFrame:
        """The per-sample records of one attack (its id, `fgs@0.1`) on one level."""
        found = self._level(seed, level, model, method)
        by_id = {cell.about.id: cell.key for cell in found.attacks}
        if attack not in by_id:
            raise one_of("attack", attack, by_id)
        return self.store.read(by_id[attack]).records

    def _level(self, seed: int, level: int, model: str | None, method: str | None) -> LevelPlan:
        arms = self.plan.arms
        if model is not None and model not in (titles := [arm.model for arm in arms]):
            raise one_of("model", model, dict.fromkeys(titles))
        titles = [arm.pruner for arm in arms]
        if method is not None and method not in titles:
            raise one_of("method", method, dict.fromkeys(titles))
        arm = next(arm for arm in arms if model in (None, arm.model) and (arm.pruner == method if method else not arm.control))
        mine = [one for one in self.plan.levels if one.arm == arm]
        for one in mine:
            if (one.seed, one.level) == (seed, level):
                if not self.store.finished(one.train.key):
                    raise InputError("level", level, "a level whose training has finished")
                return one
        last = max(one.seed for one in mine), max(one.level for one in mine)
        raise InputError("level", f"{level} of seed {seed}", f"seeds 0 to {last[0]}, levels 0 to {last[1]}")


class StudyError(IsogridError):
    """Tasks of a study failed. `study`: what has finished, with its tables; `failures`: the tasks and the reasons."""

    def __init__(self, study: Study, failures: Sequence[Event]) -> None:
        self.study, self.failures = study, tuple(failures)
        first = self.failures[0]
        super().__init__(
            f"{len(failures)} tasks failed, the first: {first.task.label}: {first.reason} ({study.folder}/summary.json has all)"
        )


def write_study_tables(study: Study) -> None:
    """Write the tables of a study folder anew from its finished cells; what is missing is listed as not finished.

    Raises InputError where not one level has finished: tables that are there, of an earlier configuration, are not emptied.
    """
    store = study.store
    if not any(store.finished(level.train.key) for level in study.plan.levels):
        raise InputError("study", str(study.folder), "a study with a finished level; the same `isogrid run` continues it")
    unfinished = [Event(kind="skipped", task=task, reason="not finished") for task in missing(study.plan, study.folder)]
    write_tables(study.plan, store, unfinished)


def open_study(folder: str | Path) -> Study:
    """Open a study folder that `isogrid run` made, from what it holds alone; raises InputError where it holds no study."""
    folder = _folder("folder", folder)
    return Study(folder, read_plan(folder))


def _folder(field: str, path: str | Path) -> Path:
    """The path in full; raises InputError where it cannot be one."""
    if not isinstance(path, str | Path) or "\0" in str(path) or not str(path):
        raise InputError(field, path, "the path of a folder")
    return Path(path).resolve()


def pretty_seconds(seconds: float) -> str:
    """A duration for people.

    >>> pretty_seconds(8), pretty_seconds(95), pretty_seconds(7300)
    ('8 s', '1 min 35 s', '2 h 1 min')
    """
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
