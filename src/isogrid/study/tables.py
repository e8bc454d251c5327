"""The tables that a study leaves in its folder, from its finished cells alone: frontier, curves, claims, recommendation, gallery."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

import isogrid
from isogrid.core.files import replacing, save_tensors, write_json, write_text
from isogrid.engines import Event
from isogrid.metrics.robustness import attack_metrics, class_accuracy, mean_distance, median_distance, void_share
from isogrid.metrics.statistics import crossed, impute_failures
from isogrid.study.auditing import audit_study
from isogrid.study.levels import Attacked, Family, Level, Threat, attack_cells, families, read_levels, threats
from isogrid.study.measures import ENVELOPE, SHARED, data_title, evidence_of, headlines, metric_name, shared
from isogrid.study.plans import Plan, TransferPlan
from isogrid.study.store import Store
from isogrid.verdicts.claims import judge, recommend
from isogrid.verdicts.evidence import Evidence

COLUMNS = ("data", "model", "objective", "penalty", "method", "seed", "level", "sparsity")
VALUES = ("metric", "attack", "norm", "domain", "eps", "value", "n")
Array = np.ndarray[Any, Any]


def write_tables(study: Plan, store: Store, failures: Sequence[Event] = ()) -> None:
    """Write frontier, timings, summary, claims and gallery of what has finished."""
    levels = read_levels(study, store)
    grouped = [family for family in families(study, levels) if family.pruned]
    frontier = frontier_table(study, levels)
    with replacing(store.root / "frontier.parquet") as path:
        frontier.to_parquet(path, index=False)
    write_text(store.root / "frontier.csv", frontier.to_csv(index=False, lineterminator="\n"))
    _write_timings(study, store)
    evidence = [evidence_of(family) for family in grouped]
    tolerance = study.spec.tolerance.model_dump()
    write_json(store.root / "claims.json", _plain(judge(evidence, tolerance)))
    write_json(store.root / "summary.json", _plain(_summary(study, store, grouped, evidence, failures)))
    _write_gallery(grouped, store)


def frontier_table(study: Plan, levels: Sequence[Level]) -> pd.DataFrame:
    """The tidy table: one row per value."""
    data = {model.spec.title: data_title(model.data) for model in study.models}
    given = {model.spec.title for model in study.models if model.spec.checkpoints}
    rows: list[tuple[Any, ...]] = []
    over = {family.model.spec.title: _envelopes(family) for family in families(study, levels) if family.pruned}
    for level in levels:
        plan = level.plan
        head = (
            data[plan.model],
            plan.model,
            "unknown" if plan.model in given else study.spec.training.objective,
            "",
            plan.method,
            plan.seed,
            plan.level,
            level.metrics["sparsity"],
        )
        rows += [head + row for row in (*_level_rows(level), *_envelope_rows(level, over.get(plan.model, ())))]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *VALUES])
    return frame.astype({"eps": "float64", "value": "float64", "n": "int64"})


def _level_rows(level: Level) -> Iterator[tuple[Any, ...]]:
    """(metric, attack, norm, domain, eps, value, n) of one level."""
    clean, none = level.clean, math.nan
    count = len(clean)
    yield "accuracy", "", "", "", none, float(level.correct.mean()), count
    classes = int(clean["label"].max()) + 1
    for k, value in enumerate(class_accuracy(clean["label"], clean["prediction"], classes)):
        yield f"accuracy_class_{k}", "", "", "", none, float(value), int((clean["label"] == k).sum())
    yield "collapsed", "", "", "", none, float(level.metrics["collapsed"]), count
    for attack in level.attacks.values():
        records = attack.records
        if attack.partial:
            broken = float(records["success"].mean()) if len(records) else none
            yield (
                "success_rate_on_survivors",
                attack.id,
                attack.norm,
                attack.domain,
                none if attack.eps is None else attack.eps,
                broken,
                len(records),
            )
            continue
        metrics = attack_metrics(
            label=records["label"],
            clean=records["clean"],
            adversarial=records["adversarial"],
            success=records["success"],
            distance=records["distance"],
            zero_gradient=records["zero_gradient"],
            fixed_budget=attack.eps is not None,
        )
        passes = {"forwards": records["forwards"].mean(), "backwards": records["backwards"].mean()}
        for metric, value in (metrics | passes).items():
            name = metric_name(metric, attack.norm)
            yield name, attack.id, attack.norm, attack.domain, none if attack.eps is None else attack.eps, float(value), len(records)
    for row in level.theory:
        eps, value = (none if row[name] is None else row[name] for name in ("eps", "value"))
        yield row["metric"], "theory", row["norm"], row["domain"], eps, value, count


def _envelopes(family: Family) -> list[tuple[str, Threat]]:
    """Every threat of a model under the name of its envelope, and the part of it that contrasts rest on where that is less."""
    whole = threats(family.pruned.values())
    parts = [shared(family, threat)[0] for threat in whole]
    less = [part for threat, part in zip(whole, parts, strict=True) if 1 < len(part.ids) < len(threat.ids)]
    return [*((ENVELOPE, threat) for threat in whole), *((SHARED, part) for part in less)]


def _envelope_rows(level: Level, over: Sequence[tuple[str, Threat]]) -> Iterator[tuple[Any, ...]]:
    """The envelopes of one level; `n` counts the samples that an attack that decides the figure saw."""
    for name, threat in over:
        for eps in threat.budgets:
            values = level.judged(threat.ids, eps)
            if values is None or np.isnan(values).all():
                continue
            head = (name.replace(" ", "-"), threat.norm, threat.domain, math.nan if eps is None else eps)
            seen = ~np.isnan(values)
            if eps is not None:
                yield metric_name("r_inf", threat.norm), *head, float(values[seen].mean()), int(seen.sum())
                continue
            yield metric_name("r_2", threat.norm), *head, mean_distance(values[seen]).value, int(seen.sum())
            yield "median_distance", *head, median_distance(values[seen], level.correct[seen]), int(seen.sum())


def _summary(
    study: Plan, store: Store, grouped: Sequence[Family], evidence: Sequence[Evidence], failures: Sequence[Event]
) -> dict[str, Any]:
    spec = study.spec
    first = store.read(study.models[0].samples).metrics
    return {
        "isogrid": isogrid.__version__,
        "name": spec.name,
        "data": {"name": spec.data.name} | {name: first[name] for name in ("train", "test", "classes", "source")},
        "seeds": max(spec.seeds_of(model.spec) for model in study.models),
        "models": [model.spec.title for model in study.models],
        "linear": [model.spec.title for model in study.models if model.linear],
        "methods": {model.spec.title: spec.method_of(model.spec) for model in study.models},
        "tolerance": spec.tolerance.model_dump(),
        "attacks": [
            {
                "id": cell.id,
                "name": cell.config["name"],
                "norm": family_attack.norm,
                "domain": family_attack.domain,
                "eps": family_attack.eps,
                "samples": len(family_attack.records),
                "config": cell.config,
            }
            for cell in attack_cells(study).values()
            if (family_attack := _anywhere(grouped, cell.id)) is not None
        ],
        "curves": [curve for family, one in zip(grouped, evidence, strict=True) for curve in curves(family, one)],
        "transfer": [
            {"model": t.model, "attack": t.attack, "levels": list(t.levels)} | _matrix(grouped, t, store)
            for t in study.transfers
            if store.finished(t.key)
        ],
        **audit_study(grouped),
        "recommendation": recommend(evidence, spec.tolerance.model_dump()),
        "failures": [{"task": event.task.label, "reason": event.reason} for event in failures],
    }


def _matrix(grouped: Sequence[Family], transfer: TransferPlan, store: Store) -> dict[str, Any]:
    family = next(f for f in grouped if f.model.spec.title == transfer.model)
    return {"sparsity": [family.sparsity(level) for level in transfer.levels], "matrix": store.read(transfer.key).metrics["matrix"]}


def _anywhere(grouped: Sequence[Family], identity: str) -> Attacked | None:
    return next((found.attacks[identity] for f in grouped for found in f.pruned.values() if identity in found.attacks), None)


def curves(family: Family, evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Mean, standard deviation over seeds and 95 % crossed interval of every measure along the levels, sparse network and control."""
    pruned, dense = (
        {"model": arm.model, "method": arm.pruner, "control": arm.control} for arm in (evidence.arm, evidence.arm.dense_control)
    )
    for head, levels, correct in (
        (pruned, evidence.levels, evidence.correct),
        (dense, evidence.control_levels, evidence.control_correct),
    ):
        if correct is not None:
            points = [_point(family, evidence, level, correct[:, k]) for k, level in enumerate(levels)]
            yield head | {"metric": "accuracy", "attack": "", "norm": "", "domain": "", "eps": None, "points": points}
    for measure in (*headlines(family), *evidence.measures):
        for head, levels, values, marked in (
            (pruned, measure.levels, measure.values, measure.saturated),
            (dense, measure.control_levels, measure.control_values, measure.control_saturated),
        ):
            if values is None:
                continue
            points = [_point(family, evidence, level, values[:, k], level in marked, measure.kind) for k, level in enumerate(levels)]
            yield head | {
                "metric": metric_name("r_inf" if measure.kind == "r_inf" else "r_2", measure.norm),
                "attack": measure.attack.replace(" ", "-") if measure.attack in (ENVELOPE, SHARED) else measure.name,
                "over": _over(family, measure.attack, measure.norm, measure.domain),
                "norm": measure.norm,
                "domain": measure.domain,
                "eps": measure.eps,
                "points": [point for point in points if point["seeds"]],
            }


def _point(
    family: Family, evidence: Evidence, level: int, values: Array, is_saturated: bool = False, kind: str = "r_inf"
) -> dict[str, Any]:
    """One level of a curve from values [S, N]: over the seeds that were measured, on the samples that all of them were measured on.

    A void r_2 has no mean; its failures and the median over the attacked samples, in which a failure counts as inf, say what is known.
    """
    present = values[~np.isnan(values).all(1)]
    present = present[:, ~np.isnan(present).any(0)]
    point: dict[str, Any] = {"level": level, "sparsity": evidence.sparsity.get(level, 0.0), "seeds": len(present), "n": present.shape[1]}
    void = False
    if kind == "distance":
        failed, attacked = np.isposinf(present).sum(1), (present > 0).sum(1)
        void = bool(void_share(failed, attacked).any())
        point |= {"failed": int(failed.sum()), "attacked": int(attacked.sum()), "median": _median(present)}
        present = impute_failures(present)
    point |= {"saturated": is_saturated, "collapsed": evidence.collapsed_at(level), "void": void}
    if len(present) and present.shape[1] > 1 and np.isfinite(present).all() and not void:
        low, high = crossed(present).interval()
        by_seed = present.mean(1)
        low, high = (low, high) if kind == "distance" else (max(low, 0.0), min(high, 1.0))
        point |= {"mean": float(by_seed.mean()), "sd": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None, "low": low, "high": high}
    else:
        point |= {"mean": None, "sd": None, "low": None, "high": None}
    return point


def _median(distances: Array) -> float | None:
    """Of the attacked samples of all seeds together; inf where more than half of the attacks failed, None where nothing was attacked."""
    pooled = distances.ravel()
    return median_distance(pooled, pooled > 0) if (pooled > 0).any() else None


def _over(family: Family, attack: str, norm: str, domain: str) -> list[str]:
    """The attacks that an envelope is the minimum over; none for an attack."""
    for name, threat in _envelopes(family):
        if (name, threat.norm, threat.domain) == (attack, norm, domain):
            return list(threat.ids)
    return []


def _write_timings(study: Plan, store: Store) -> None:
    rows = [(t.key, t.label, store.read(t.key).seconds) for t in study.tasks if store.finished(t.key)]
    frame = pd.DataFrame(rows, columns=["key", "task", "cpu_seconds"])
    write_text(store.root / "timings.csv", frame.to_csv(index=False, lineterminator="\n"))


def _write_gallery(grouped: Sequence[Family], store: Store) -> None:
    """The stored adversarial examples of the first seed's pruned levels, with the clean images."""
    tensors: dict[str, torch.Tensor] = {}
    for family in grouped:
        clean = store.read(family.model.samples).tensors("examples")
        name = family.model.spec.title
        for (seed, number), level in family.pruned.items():
            if seed != 0:
                continue
            for cell in level.plan.attacks:
                if cell.id in level.attacks and store.read(cell.key).has("examples"):
                    shown = store.read(cell.key).tensors("examples")
                    tensors |= {f"{name}/{number}/{cell.id}/{part}": value for part, value in shown.items()}
        tensors[f"{name}/clean"], tensors[f"{name}/label"] = clean["x"], clean["label"]
    if tensors:
        save_tensors(store.root / "gallery.safetensors", tensors)


def _plain(value: Any) -> Any:
    """JSON-able: numpy scalars unpacked, non-finite numbers as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
