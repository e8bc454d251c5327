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
from isogrid.metrics.robustness import attack_metrics, class_accuracy, mean_distance, median_distance, saturated, void_share
from isogrid.metrics.statistics import crossed, impute_failures
from isogrid.study import cells
from isogrid.study.claims import judge, recommend
from isogrid.study.evidence import Evidence, Measure
from isogrid.study.levels import Attacked, Family, Level, attack_cells, families, groups, read_levels
from isogrid.study.store import Store
from isogrid.study.tasks import Plan, TransferPlan

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
    evidence = [evidence_of(family, study) for family in grouped]
    tolerance = study.spec.tolerance.model_dump()
    write_json(store.root / "claims.json", _plain(judge(evidence, tolerance)))
    write_json(store.root / "summary.json", _plain(_summary(study, store, grouped, evidence, failures)))
    _write_gallery(grouped, store)


def frontier_table(study: Plan, levels: Sequence[Level]) -> pd.DataFrame:
    """The tidy table: one row per value."""
    data = {model.spec.title: data_title(model.data) for model in study.models}
    rows: list[tuple[Any, ...]] = []
    for level in levels:
        plan = level.plan
        head = (
            data[plan.model],
            plan.model,
            study.spec.training.objective,
            "",
            plan.method,
            plan.seed,
            plan.level,
            level.metrics["sparsity"],
        )
        rows += [head + row for row in _level_rows(level)]
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
    yield from _envelope_rows(level)
    for row in level.theory:
        eps, value = (none if row[name] is None else row[name] for name in ("eps", "value"))
        yield row["metric"], "theory", row["norm"], row["domain"], eps, value, count


def _envelope_rows(level: Level) -> Iterator[tuple[Any, ...]]:
    for (norm, domain), ids in groups(level, list(level.attacks)).items():
        found = level.envelope(ids)
        count = len(found.distance)
        for eps in sorted({level.attacks[i].eps for i in ids} - {None}):  # type: ignore[type-var]
            assert eps is not None
            yield metric_name("r_inf", norm), "envelope", norm, domain, eps, found.r_inf(eps), count
        if any(level.attacks[i].eps is None for i in ids):
            correct = level.correct[:count]
            yield metric_name("r_2", norm), "envelope", norm, domain, math.nan, mean_distance(found.distance).value, count
            yield "median_distance", "envelope", norm, domain, math.nan, median_distance(found.distance, correct), count


def metric_name(metric: str, norm: str) -> str:
    """r_inf is accuracy under an l_inf budget and r_2 a mean l2 distance; in the other norm they go by their plain names."""
    if metric == "r_inf" and norm != "linf":
        return "robust_accuracy"
    return "mean_distance" if metric == "r_2" and norm != "l2" else metric


def data_title(data: Mapping[str, Any]) -> str:
    """The data's name in tables, with its classes where they were chosen."""
    return str(data["name"]) + ("" if data["classes"] is None else f"[{','.join(map(str, data['classes']))}]")


def _stack(family: Family, source: dict[tuple[int, int], Level], levels: Sequence[int], pick: Any, count: int) -> Array:
    """[S, L, N] of `pick(level) -> [N] or None`; NaN where a cell is missing."""
    values = np.full((len(family.seeds), len(levels), count), math.nan)
    for s, seed in enumerate(family.seeds):
        for k, level in enumerate(levels):
            found = source.get((seed, level))
            row = None if found is None else pick(found)
            if row is not None:
                values[s, k, : len(row)] = row[:count]
    return values


def _robust(attack: Attacked) -> Array:
    return (attack.records["adversarial"] == attack.records["label"]).to_numpy().astype(np.float64)


def _distance(attack: Attacked) -> Array:
    return attack.records["distance"].to_numpy()


def evidence_of(family: Family, study: Plan) -> Evidence:
    """Everything that one model of a study can say about the claims."""
    count = len(next(iter(family.pruned.values())).clean)
    levels, twin_levels = family.levels, family.twin_levels

    def correct(level: Level) -> Array:
        return level.correct.astype(np.float64)

    collapsed = [
        [bool(found.metrics["collapsed"]) if (found := family.pruned.get((s, k))) else False for k in levels] for s in family.seeds
    ]
    return Evidence(
        data=data_title(family.model.data),
        model=family.model.spec.title,
        method=family.method,
        linear=family.model.linear,
        sparsity={level: family.sparsity(level) for level in levels},
        levels=levels,
        correct=_stack(family, family.pruned, levels, correct, count),
        collapsed=np.array(collapsed, dtype=bool),
        twin_levels=twin_levels,
        twin_correct=_stack(family, family.twin, twin_levels, correct, count) if twin_levels else None,
        measures=tuple(measures(family)),
    )


def measures(family: Family) -> Iterator[Measure]:
    """One measure per attack, and one envelope per norm, domain and budget over the attacks that sparse network and twin share."""
    first = next(iter(family.pruned.values()))
    twin_ids = {identity for found in family.twin.values() for identity in found.attacks}
    for identity in family.attack_ids():
        example = _example(family, identity)
        if example.partial:
            continue
        pick = _robust if example.eps is not None else _distance
        yield _measure(
            family,
            identity,
            example.name,
            (example.norm, example.domain, example.eps),
            lambda level, identity=identity, pick=pick: pick(level.attacks[identity]) if identity in level.attacks else None,
            len(example.records),
            twin=identity in twin_ids,
        )
    shared = [i for i in family.attack_ids() if not twin_ids or i in twin_ids]
    whole = [i for i in shared if (example := _example(family, i)).partial or len(example.records) == len(first.clean)]
    for (norm, domain), ids in groups(first, whole).items():
        found = [_example(family, i).eps for i in ids]
        budgets = [*sorted({eps for eps in found if eps is not None}), *([None] if None in found else [])]
        for eps in budgets:
            yield _measure(
                family,
                f"envelope-{norm}-{domain}" + ("" if eps is None else f"@{eps:g}"),
                "envelope",
                (norm, domain, eps),
                lambda level, ids=ids, eps=eps: _envelope_values(level, ids, eps),
                len(first.clean),
                twin=bool(twin_ids),
            )


def _example(family: Family, identity: str) -> Attacked:
    return next(found.attacks[identity] for found in family.pruned.values() if identity in found.attacks)


def _envelope_values(level: Level, ids: Sequence[str], eps: float | None) -> Array | None:
    if any(identity not in level.attacks for identity in ids):
        return None
    distance = level.envelope(ids).distance
    return distance if eps is None else (distance > eps * (1 + 1e-5) + 1e-6).astype(np.float64)


def _measure(
    family: Family, name: str, attack: str, threat: tuple[str, str, float | None], pick: Any, count: int, *, twin: bool
) -> Measure:
    norm, domain, eps = threat
    values = _stack(family, family.pruned, family.levels, pick, count)
    twin_values = _stack(family, family.twin, family.twin_levels, pick, count) if twin and family.twin_levels else None
    fixed = eps is not None
    return Measure(
        name=name,
        attack=attack,
        norm=norm,
        domain=domain,
        eps=eps,
        kind="r_inf" if fixed else "distance",
        levels=family.levels,
        values=values,
        twin_levels=family.twin_levels if twin_values is not None else (),
        twin_values=twin_values,
        saturated=_saturated(family, family.pruned, family.levels, values) if fixed else (),
        twin_saturated=_saturated(family, family.twin, family.twin_levels, twin_values) if fixed and twin_values is not None else (),
    )


def _saturated(family: Family, source: dict[tuple[int, int], Level], levels: Sequence[int], values: Array) -> tuple[int, ...]:
    """The levels at the floor or the ceiling of an eps, counts pooled over the seeds."""
    found = []
    for k, level in enumerate(levels):
        seeds = [s for s, seed in enumerate(family.seeds) if (seed, level) in source and not np.isnan(values[s, k]).any()]
        if not seeds:
            continue
        count = values.shape[2]
        correct = [source[family.seeds[s], level].correct[:count] for s in seeds]
        robust = [values[s, k].astype(bool) & right for s, right in zip(seeds, correct, strict=True)]
        if saturated(int(np.sum(robust)), int(np.sum(correct)), count * len(seeds)):
            found.append(level)
    return tuple(found)


def _summary(
    study: Plan, store: Store, grouped: Sequence[Family], evidence: Sequence[Evidence], failures: Sequence[Event]
) -> dict[str, Any]:
    spec = study.spec
    sets = {model.spec.title: cells.load_split(model.data) for model in study.models}
    first = next(iter(sets.values()))
    return {
        "isogrid": isogrid.__version__,
        "name": spec.name,
        "data": {
            "name": spec.data.name,
            "train": first.train.n,
            "test": first.test.n,
            "classes": first.train.classes,
            "source": first.source,
        },
        "seeds": spec.seeds,
        "models": [model.spec.title for model in study.models],
        "linear": [model.spec.title for model in study.models if model.linear],
        "method": spec.pruning.method,
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
        "recommendation": recommend(evidence, spec.tolerance.model_dump()),
        "failures": [{"task": event.task.label, "reason": event.reason} for event in failures],
    }


def _matrix(grouped: Sequence[Family], transfer: TransferPlan, store: Store) -> dict[str, Any]:
    family = next(f for f in grouped if f.model.spec.title == transfer.model)
    return {"sparsity": [family.sparsity(level) for level in transfer.levels], "matrix": store.read(transfer.key).metrics["matrix"]}


def _anywhere(grouped: Sequence[Family], identity: str) -> Attacked | None:
    return next((found.attacks[identity] for f in grouped for found in f.pruned.values() if identity in found.attacks), None)


def curves(family: Family, evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Mean, standard deviation over seeds and 95 % crossed interval of every measure along the levels, sparse and twin."""
    head = {"model": evidence.model}
    for method, levels, correct in (
        (family.method, evidence.levels, evidence.correct),
        ("dense", evidence.twin_levels, evidence.twin_correct),
    ):
        if correct is not None:
            points = [_point(family, evidence, level, correct[:, k]) for k, level in enumerate(levels)]
            yield head | {"method": method, "metric": "accuracy", "attack": "", "norm": "", "domain": "", "eps": None, "points": points}
    for measure in evidence.measures:
        for method, levels, values, marked in (
            (family.method, measure.levels, measure.values, measure.saturated),
            ("dense", measure.twin_levels, measure.twin_values, measure.twin_saturated),
        ):
            if values is None:
                continue
            points = [_point(family, evidence, level, values[:, k], level in marked, measure.kind) for k, level in enumerate(levels)]
            yield head | {
                "method": method,
                "metric": metric_name("r_inf" if measure.kind == "r_inf" else "r_2", measure.norm),
                "attack": measure.name if measure.attack != "envelope" else "envelope",
                "norm": measure.norm,
                "domain": measure.domain,
                "eps": measure.eps,
                "points": [point for point in points if point["seeds"]],
            }


def _point(
    family: Family, evidence: Evidence, level: int, values: Array, is_saturated: bool = False, kind: str = "r_inf"
) -> dict[str, Any]:
    """One level of a curve from values [S, N]."""
    present = values[~np.isnan(values).any(1)]
    void = False
    if kind == "distance" and len(present):
        void = bool(void_share(np.isposinf(present).sum(1), (present > 0).sum(1)).any())
        present = impute_failures(present)
    point: dict[str, Any] = {"level": level, "sparsity": evidence.sparsity.get(level, 0.0), "seeds": len(present), "n": values.shape[1]}
    point |= {"saturated": is_saturated, "collapsed": evidence.collapsed_at(level), "void": void}
    if len(present) and np.isfinite(present).all():
        estimate = crossed(present)
        low, high = estimate.interval()
        by_seed = present.mean(1)
        point |= {"mean": float(by_seed.mean()), "sd": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None, "low": low, "high": high}
    else:
        point |= {"mean": None, "sd": None, "low": None, "high": None}
    return point


def _write_timings(study: Plan, store: Store) -> None:
    rows = [(t.key, t.label, store.read(t.key).seconds) for t in study.tasks if store.finished(t.key)]
    frame = pd.DataFrame(rows, columns=["key", "task", "cpu_seconds"])
    write_text(store.root / "timings.csv", frame.to_csv(index=False, lineterminator="\n"))


def _write_gallery(grouped: Sequence[Family], store: Store) -> None:
    """The stored adversarial examples of the first seed's pruned levels, with the clean images."""
    tensors: dict[str, torch.Tensor] = {}
    for family in grouped:
        test = cells.load_split(family.model.data).test
        name = family.model.spec.title
        for (seed, number), level in family.pruned.items():
            if seed != 0:
                continue
            for cell in level.plan.attacks:
                if cell.id in level.attacks:
                    shown = store.read(cell.key).tensors("examples")
                    tensors |= {f"{name}/{number}/{cell.id}/{part}": value for part, value in shown.items()}
        tensors[f"{name}/clean"], tensors[f"{name}/label"] = test.x[: cells.EXAMPLES], test.y[: cells.EXAMPLES]
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
