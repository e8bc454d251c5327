"""From a specification to the graph of tasks. What belongs here: keys, needs, expected costs. What does not: doing the work."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from isogrid import attacks, models
from isogrid.attacks.driver.base import as_classifier, check_samples
from isogrid.core.errors import InputError, IsogridError
from isogrid.core.files import digest
from isogrid.data import Split
from isogrid.engines import Task
from isogrid.sparsity import prunable
from isogrid.study import cells
from isogrid.study.plans import AttackCell, LevelPlan, ModelPlan, Plan, TransferPlan
from isogrid.study.probes import attack_cell, audit_key, audit_task, blackbox_task, expected_gradients, transfer_task
from isogrid.study.spec import AttackSpec, BlackBoxSpec, ModelSpec, Spec
from isogrid.study.store import key
from isogrid.theory import linear_weights


def plan(spec: Spec, root: Path) -> Plan:
    """The graph of a study; loads the data and builds every model once, so that unusable input is refused before anything is written."""
    model_plans = tuple(_model_plan(spec, model) for model in spec.models)
    levels: list[LevelPlan] = []
    tasks: dict[str, Task] = {}
    transfers: list[TransferPlan] = []
    for model_plan in model_plans:
        for seed in range(spec.seeds_of(model_plan.spec)):
            for level, new in _levels(spec, model_plan, seed, root):
                levels.append(level)
                tasks.update((task.key, task) for task in new if task.key not in tasks)
        if spec.transfer is not None:
            chain = [level for level in levels if (level.model, level.seed) == (model_plan.spec.title, 0) and level.method != "dense"]
            transfer, task = transfer_task(spec, model_plan, chain, root)
            transfers.append(transfer)
            tasks[task.key] = task
    return Plan(spec=spec, models=model_plans, levels=tuple(levels), transfers=tuple(transfers), tasks=tuple(tasks.values()))


def _split_config(spec: Spec, model: ModelSpec) -> dict[str, Any]:
    """The samples of one model; of some classes only there may be fewer than the study takes of all."""
    counts = {"train": spec.data.train, "test": spec.data.test}
    classes = model.classes and list(model.classes)
    if classes:
        whole = cells.load_split({"name": spec.data.name, "train": None, "test": None, "classes": classes})
        there = {"train": whole.train.n, "test": whole.test.n}
        counts = {part: None if count is None else min(count, there[part]) for part, count in counts.items()}
    return {"name": spec.data.name} | counts | {"classes": classes}


def _model_plan(spec: Spec, model: ModelSpec) -> ModelPlan:
    split_config = _split_config(spec, model)
    split = cells.load_split(split_config)
    config: dict[str, Any] = {"name": model.name, "source": models.source_digest(model.name)}
    network = cells.build_model(config, split.train.shape, split.train.classes, 0, "cpu")
    if not prunable(network):
        raise InputError("model", model.name, "a network with at least one linear or convolutional layer to prune")
    if model.weights is not None and model.checkpoints:
        raise InputError("weights", model.weights, "either weights or checkpoints")
    files = []
    for given in (*(() if model.weights is None else (model.weights,)), *model.checkpoints):
        path = Path(given).expanduser().resolve()
        models.load_weights(network, path, "checkpoints" if model.checkpoints else "weights")
        files.append((str(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16]))
    check_samples(split.test.x, split.test.y, split.test.box)
    as_classifier(network.eval(), split.test.x, split.test.y)
    if spec.blackbox is not None:
        _check_substitute(spec.blackbox, split)
    data = split_config | {"digest": digest([split.train.digest(), split.test.digest()])}
    return ModelPlan(
        spec=model,
        data=data,
        model=config,
        samples=key("data", data),
        files=tuple(files),
        linear=len(prunable(network)) == 1 and linear_weights(network, split.test.shape) is not None,
        weights=cells.model_size(network)[0],
        gradient_seconds=_gradient_seconds(network, split.train.x),
    )


def _check_substitute(spec: BlackBoxSpec, split: Split) -> None:
    """Raises InputError where the substitute cannot be built for these data, or has too few samples to start from."""
    try:
        network = models.build(spec.model, split.test.shape, split.test.classes)
        as_classifier(network.eval(), split.test.x, split.test.y)
    except IsogridError as error:
        raise InputError("blackbox.model", spec.model, f"a model that fits the data ({error})") from None
    if spec.seed_samples > split.train.n:
        raise InputError("blackbox.seed_samples", spec.seed_samples, f"at most the {split.train.n} training samples")


def _gradient_seconds(network: torch.nn.Module, x: torch.Tensor) -> float:
    """Measured time of one forward and backward pass per sample: forecasts only, never a result."""
    batch, threads = x[:128].clone().requires_grad_(), torch.get_num_threads()
    times = []
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            started = time.process_time()
            network(batch).sum().backward()
            times.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return min(times) / len(batch)


def _levels(spec: Spec, model: ModelPlan, seed: int, root: Path) -> Iterator[tuple[LevelPlan, list[Task]]]:
    """The levels of one seed: the dense reference, the pruned chain, the twin's chain."""
    method, rounds = spec.method_of(model.spec), spec.rounds_of(model.spec)
    chains: list[tuple[str, int, dict[str, Any]]] = [(method, rounds, spec.pruning.model_dump(exclude={"rounds"}))]
    if spec.twin_rounds and not model.spec.checkpoints:
        chains.append(("dense", max(spec.twin_rounds), {"method": "dense"}))
    for method, rounds, pruner in chains:
        parent = None
        for level in range(rounds + 1):
            trained, train_task = _train_task(spec, model, seed, level, pruner if level else None, parent, root, method)
            twin = method == "dense"
            attacked = [] if twin and level not in spec.twin_rounds else list(_attack_cells(spec, model, trained, seed, twin=twin))
            theory = None if twin or not model.linear else _theory_key(spec, model, trained)
            audited = spec.audit is not None and not twin and seed == 0 and level in spec.audit.levels
            audit = audit_key(spec, model, trained) if audited else None
            title = f"{model.spec.title} seed {seed} {method} level {level}"
            new = [train_task] + [_attack_task(spec, model, trained, seed, cell, root, title) for cell in attacked]
            if spec.blackbox is not None and not twin and level in (spec.blackbox.levels or (level,)):
                box_cell, box_task = blackbox_task(spec, model, trained, seed, root, title)
                attacked.append(box_cell)
                new.append(box_task)
            if theory is not None:
                new.append(_theory_task(spec, model, trained, theory, root, title))
            if audit is not None:
                new.append(audit_task(spec, model, trained, audit, root, title))
            if not (twin and level == 0):  # the twin's level 0 is the dense reference
                yield (
                    LevelPlan(
                        model=model.spec.title,
                        method=method,
                        seed=seed,
                        level=level,
                        train=trained,
                        attacks=tuple(attacked),
                        theory=theory,
                        audit=audit,
                    ),
                    new,
                )
            parent = trained


def _train_task(
    spec: Spec, model: ModelPlan, seed: int, level: int, pruner: dict[str, Any] | None, parent: str | None, root: Path, method: str
) -> tuple[str, Task]:
    fit = dataclasses.asdict(spec.training.fit(dense=level == 0))
    given = model.files[level] if level < len(model.files) else None
    made: dict[str, Any] = (
        {"file": given[1]} if given is not None else {"fit": fit, "pruner": pruner, "parent": parent, "seed": seed, "level": level}
    )
    content = {"data": model.data["digest"], "model": model.model, "threads": spec.threads, "device": spec.device} | made
    cell = key("train", content)
    samples = len(cells.load_split(model.data).train.y)
    task = Task(
        key=cell,
        label=f"{'train' if given is None else 'read'} {model.spec.title} seed {seed} {method} level {level}",
        function=cells.train,
        arguments={
            "root": str(root),
            "key": cell,
            "data": model.data,
            "model": model.model,
            "seed": seed,
            "level": level,
            "fit_config": fit,
            "pruner": pruner,
            "parent": None if given is not None else parent,
            "weights": None if given is None else given[0],
            "device": spec.device,
        },
        needs=() if parent is None or given is not None else (parent,),
        threads=spec.threads,
        cost=0.05 + fit["epochs"] * samples * (1.1 * model.gradient_seconds + 4e-4 / fit["batch_size"]),
    )
    return cell, task


def attack_samples(spec: AttackSpec, model: ModelSpec) -> int | None:
    """How many of the test samples an attack gets on a model."""
    return spec.samples_of.get(model.title, spec.samples_of.get(model.name, spec.samples))


def _attack_cells(spec: Spec, model: ModelPlan, trained: str, seed: int, *, twin: bool) -> Iterator[AttackCell]:
    by_threat: dict[tuple[str, str, float | None], list[str]] = {}
    for entry in spec.twin_attacks if twin else spec.attacks:
        for identity, attack in entry.named():
            config = attacks.config_of(attack)
            samples = attack_samples(entry, model.spec)
            earlier = by_threat.setdefault((attack.threat.name, attack.domain, attack.budget), [])
            before = tuple(earlier) if entry.survivors else ()
            content: dict[str, Any] = {
                "train": trained,
                "attack": config,
                "samples": samples,
                "seed": seed,
                "threads": spec.threads,
                "device": spec.device,
            }
            if before:
                content["before"] = list(before)
            cell = attack_cell(attack, identity, key("attack", content), config, samples=samples, before=before)
            earlier.append(cell.key)
            yield cell


def _attack_task(spec: Spec, model: ModelPlan, trained: str, seed: int, cell: AttackCell, root: Path, title: str) -> Task:
    test = len(cells.load_split(model.data).test.y)
    return Task(
        key=cell.key,
        label=f"{cell.id} on {title}",
        function=cells.attack,
        arguments={
            "root": str(root),
            "key": cell.key,
            "train_key": trained,
            "data": model.data,
            "model": model.model,
            "seed": seed,
            "config": cell.config,
            "samples": cell.samples,
            "before": list(cell.before),
            "device": spec.device,
        },
        needs=(trained, *cell.before),
        threads=spec.threads,
        cost=0.05
        + (0.3 if cell.before else 1.0) * min(cell.samples or test, test) * expected_gradients(cell.config) * model.gradient_seconds,
    )


def _eps(spec: Spec) -> list[float]:
    """The l_inf budgets of the study, for the theory."""
    budgets = {a.budget for entry in spec.attacks for a in entry.build() if a.threat.name == "linf" and a.budget is not None}
    return sorted(budgets)


def _theory_key(spec: Spec, model: ModelPlan, trained: str) -> str:
    return key("theory", {"train": trained, "eps": _eps(spec), "device": spec.device})


def _theory_task(spec: Spec, model: ModelPlan, trained: str, cell: str, root: Path, title: str) -> Task:
    arguments = {
        "root": str(root),
        "key": cell,
        "train_key": trained,
        "data": model.data,
        "model": model.model,
        "eps": _eps(spec),
        "device": spec.device,
    }
    return Task(
        key=cell, label=f"theory of {title}", function=cells.theory, arguments=arguments, needs=(trained,), threads=spec.threads, cost=0.5
    )
