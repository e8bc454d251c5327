"""plan.json: what a run set out to do, written before its first cell, so that a study opens without the files that it was made from.

Keys hold digests of factories, attacks and checkpoints: planning anew after one of them has changed leads to other cells, and a finished
study would look empty. What belongs here: writing the plan and reading it back. What does not: deriving one (`study.tasks`).
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from isogrid.core.errors import InputError
from isogrid.core.files import digest, read_json, write_json
from isogrid.engines import Task
from isogrid.study.plans import AttackCell, LevelPlan, ModelPlan, Plan, TransferPlan
from isogrid.study.spec import Spec, read_yaml
from isogrid.study.store import Store

NAME = "plan.json"
FORMAT = 1
FREE = ("name", "tolerance")
"""Settings on which no cell depends: they may be edited in study.yaml after a run."""


def write_plan(study: Plan, root: Path) -> None:
    """Write plan.json: equal studies give equal bytes, and no path of this machine is in it but those that the user wrote."""
    cells = {cell.id: cell for level in study.levels for cell in level.attacks}
    value = {
        "plan": FORMAT,
        "study": _settings(yaml.safe_load(study.spec.text())),
        "models": [{name: getattr(model, name) for name in _MODEL} for model in study.models],
        "attacks": {identity: {name: getattr(cell, name) for name in _ATTACK} for identity, cell in cells.items()},
        "levels": [
            {name: getattr(level, name) for name in _LEVEL}
            | {"attacks": [{name: getattr(cell, name) for name in _CELL} for cell in level.attacks]}
            for level in study.levels
        ],
        "transfers": [{field.name: getattr(one, field.name) for field in fields(one)} for one in study.transfers],
        "tasks": [[task.key, task.label] for task in study.tasks],
    }
    write_json(root / NAME, value)


_MODEL = ("data", "model", "samples", "linear", "weights")
_ATTACK = ("config", "norm", "domain", "eps", "gradient_free")
_CELL = ("id", "key", "samples", "before")
_LEVEL = ("model", "method", "seed", "level", "train", "theory", "audit")


def read_plan(root: Path) -> Plan:
    """The plan of a study folder; its tasks have keys and labels, but cannot be run.

    Raises InputError where the folder holds no study, no plan, or settings that are not those of its plan.
    """
    again = f"`isogrid run {root / 'study.yaml'} --out {root}`"
    if not (root / "study.yaml").is_file():
        raise InputError("study", str(root), "a folder that isogrid run has written (it holds study.yaml)")
    if not (root / NAME).is_file():
        raise InputError("study", str(root), f"a folder with a {NAME}; {again} writes it and keeps every cell that is still valid")
    settings = read_yaml(root / "study.yaml")
    spec = Spec.parse(settings, sources=False)
    try:
        value = read_json(root / NAME)
        if value["plan"] != FORMAT:
            raise ValueError(f"format {value['plan']}, not {FORMAT}")
        if value["study"] != _settings(settings):
            raise InputError("study", str(root / "study.yaml"), f"the settings that were run; for others {again}")
        return _plan(spec, value, Store(root))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("study", str(root / NAME), f"the file as the run wrote it ({error!r}); {again} writes it anew") from None


def _plan(spec: Spec, value: dict[str, Any], store: Store) -> Plan:
    models = tuple(
        ModelPlan(spec=model, files=(), gradient_seconds=0.0, **stored) for model, stored in zip(spec.models, value["models"], strict=True)
    )
    for model in models:
        if not store.finished(model.samples):
            raise InputError("study", str(store.root), f"a folder with the cell {model.samples}; the same `isogrid run` writes it")
    return Plan(
        spec=spec,
        models=models,
        levels=tuple(_level(one, value["attacks"]) for one in value["levels"]),
        transfers=tuple(TransferPlan(**one | {"levels": tuple(one["levels"])}) for one in value["transfers"]),
        tasks=tuple(Task(key=key, label=label, function=_unplanned) for key, label in value["tasks"]),
    )


def _level(stored: dict[str, Any], attacks: dict[str, Any]) -> LevelPlan:
    cells = tuple(AttackCell(**one | {"before": tuple(one["before"])} | attacks[one["id"]]) for one in stored["attacks"])
    return LevelPlan(**stored | {"attacks": cells})


def _unplanned() -> None:
    raise AssertionError("a stored plan is read, never run")


def _settings(values: dict[str, Any]) -> str:
    """The digest of all settings that cells may depend on."""
    return digest({name: value for name, value in values.items() if name not in FREE})
