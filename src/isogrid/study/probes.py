"""The tasks beside training and attacks on a level: transfer between levels, the substitute's attack, the audit's probes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from isogrid import attacks, models
from isogrid.attacks.driver.base import Attack
from isogrid.engines import Task
from isogrid.study import cells
from isogrid.study.plans import AttackCell, LevelPlan, ModelPlan, TransferPlan
from isogrid.study.spec import Spec
from isogrid.study.store import key


def attack_cell(attack: Attack, identity: str, cell: str, config: dict[str, Any], **rest: Any) -> AttackCell:
    """The plan of one attack on one level."""
    return AttackCell(
        id=identity,
        key=cell,
        config=config,
        norm=attack.threat.name,
        domain=attack.domain,
        eps=attack.budget,
        gradient_free=attack.gradient_free,
        **rest,
    )


def expected_gradients(config: dict[str, Any]) -> float:
    """About how many gradients an attack costs per sample, from its parameters: forecasts only."""
    repeats = [config.get(name) or 1 for name in ("steps", "searches", "restarts", "targets")]
    queries = (config.get("queries") or 0) / 3
    return max(1.0, 0.4 * math.prod(repeats) + queries)


def transfer_task(spec: Spec, model: ModelPlan, chain: list[LevelPlan], root: Path) -> tuple[TransferPlan, Task]:
    """The cell that holds the transfer matrix of one model, and its task."""
    assert spec.transfer is not None
    identity, attack = spec.transfer.attack.named()[0]
    config, trained = attacks.config_of(attack), [level.train for level in chain]
    cell = key("transfer", {"train": trained, "attack": config, "samples": spec.transfer.samples, "device": spec.device})
    arguments = {
        "root": str(root),
        "key": cell,
        "train_keys": trained,
        "data": model.data,
        "model": model.model,
        "seed": 0,
        "config": config,
        "samples": spec.transfer.samples,
        "device": spec.device,
    }
    test = len(cells.load_split(model.data).test.y)
    task = Task(
        key=cell,
        label=f"transfer between the levels of {model.spec.title}",
        function=cells.transfer,
        arguments=arguments,
        needs=tuple(trained),
        threads=spec.threads,
        cost=0.1 + len(chain) * (len(chain) / 3 + expected_gradients(config)) * test * model.gradient_seconds,
    )
    return TransferPlan(model=model.spec.title, key=cell, levels=tuple(level.level for level in chain), attack=identity), task


def _audit_configs(spec: Spec) -> list[dict[str, Any]]:
    """The attacks whose figures an audit looks into; it runs those of survivors on all of its samples."""
    return [attacks.config_of(attack) for entry in spec.attacks for attack in entry.build()]


def audit_key(spec: Spec, model: ModelPlan, trained: str) -> str:
    """The key of a level's audit."""
    assert spec.audit is not None
    content = {"train": trained, "attacks": _audit_configs(spec), "samples": spec.audit.samples, "device": spec.device}
    return key("audit", content | {"threads": spec.threads})


def audit_task(spec: Spec, model: ModelPlan, trained: str, cell: str, root: Path, title: str) -> Task:
    """The task of a level's audit."""
    assert spec.audit is not None
    configs = _audit_configs(spec)
    gradients = sum(3 * expected_gradients(config) + 500 for config in configs)
    arguments = {
        "root": str(root),
        "key": cell,
        "train_key": trained,
        "data": model.data,
        "model": model.model,
        "seed": 0,
        "configs": configs,
        "samples": spec.audit.samples,
        "device": spec.device,
    }
    return Task(
        key=cell,
        label=f"audit of {title}",
        function=cells.audit,
        arguments=arguments,
        needs=(trained,),
        threads=spec.threads,
        cost=0.5 + spec.audit.samples * gradients * model.gradient_seconds,
    )


def blackbox_task(spec: Spec, model: ModelPlan, trained: str, seed: int, root: Path, title: str) -> tuple[AttackCell, Task]:
    """The cell of the substitute attack on a level, and its task."""
    assert spec.blackbox is not None
    name, attack = spec.blackbox.attack.named()[0]
    config = {"name": "substitute", "attack": attacks.config_of(attack)} | spec.blackbox.model_dump(
        include={"model", "seed_samples", "rounds"}
    )
    config["source"] = models.source_digest(spec.blackbox.model)
    content = {"train": trained, "attack": config, "seed": seed, "threads": spec.threads, "device": spec.device}
    identity = f"substitute-{name}"
    cell = dataclasses.replace(attack_cell(attack, identity, key("attack", content), config), gradient_free=True)
    arguments = {
        "root": str(root),
        "key": cell.key,
        "train_key": trained,
        "data": model.data,
        "model": model.model,
        "seed": seed,
        "config": config,
        "device": spec.device,
    }
    cost = 1.0 + 10 * spec.blackbox.rounds * 6 * spec.blackbox.seed_samples * model.gradient_seconds
    task = Task(
        key=cell.key,
        label=f"{identity} on {title}",
        function=cells.substitute,
        arguments=arguments,
        needs=(trained,),
        threads=spec.threads,
        cost=cost,
    )
    return cell, task
