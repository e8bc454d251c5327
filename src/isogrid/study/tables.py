"""The tables that a study leaves in its folder, from its finished cells alone: frontier, timings, summary, claims, gallery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

import isogrid
from isogrid.core.files import replacing, save_tensors, write_json, write_text
from isogrid.core.typed import plain
from isogrid.engines import Event
from isogrid.metrics.robustness import mean_distance, median_distance, metric_name
from isogrid.study.auditing import audit_study
from isogrid.study.brackets import brackets
from isogrid.study.cells import Attack, Row
from isogrid.study.curves import curves, envelopes, truths
from isogrid.study.grids import grids
from isogrid.study.levels import Finished, families, read_levels
from isogrid.study.plan import Network, Plan
from isogrid.study.results import Failure, Matrix, Source, Summary, Used
from isogrid.study.store import Store
from isogrid.verdicts.claims import judge
from isogrid.verdicts.evidence import Evidence
from isogrid.verdicts.measures import evidence_of
from isogrid.verdicts.mechanism import mechanisms
from isogrid.verdicts.recommendation import recommend
from isogrid.verdicts.records import Family, Level, Threat

COLUMNS = ("data", "model", "objective", "penalty", "method", "seed", "level", "sparsity")


def write_tables(study: Plan, store: Store, failures: Sequence[Event] = ()) -> None:
    """Write frontier, timings, summary, claims and gallery of what has finished."""
    levels = read_levels(study, store)
    grouped = families(study, levels)
    frontier = frontier_table(levels, grouped)
    with replacing(store.root / "frontier.parquet") as path:
        frontier.to_parquet(path, index=False)
    write_text(store.root / "frontier.csv", frontier.to_csv(index=False, lineterminator="\n"))
    _write_timings(study, store)
    evidence = [evidence_of(family) for family in grouped]
    tolerance = study.spec.tolerance.model_dump()
    proved = [evidence_of(family, end="certified") for family in grouped if any(level.brackets for level in family.pruned.values())]
    certified = [one for one in judge(proved, tolerance) if one.verdict != "not applicable"]
    write_json(store.root / "claims.json", plain([*judge(evidence, tolerance), *certified]))
    write_json(store.root / "summary.json", plain(_summary(study, store, levels, grouped, evidence, failures)))
    _write_gallery(study, levels, store)


def frontier_table(levels: Sequence[Finished], grouped: Sequence[Family]) -> pd.DataFrame:
    """The tidy table, one row per value: what every cell has to say, then the envelopes over the attacks of its level."""
    over = {family.arm: envelopes(family) for family in grouped}
    rows: list[tuple[Any, ...]] = []
    for one in levels:
        arm, level = one.level.arm, one.level
        pruned = over.get(arm) or next((over[arm_] for arm_ in over if arm_.dense_control == arm), ())
        head = (arm.data, arm.model, arm.objective, arm.penalty, arm.pruner, level.seed, level.level, level.metrics["sparsity"])
        found = [row for cell, entry in one.cells for row in cell.rows(entry)]
        rows += [(*head, *row) for row in (*found, *_envelope_rows(level, pruned))]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *Row._fields])
    return frame.astype({"eps": "float64", "value": "float64", "n": "int64"})


def _envelope_rows(level: Level, over: Sequence[tuple[str, Threat]]) -> Iterator[Row]:
    """The envelopes of one level; `n` counts the samples that an attack that decides the figure saw."""
    for name, threat in over:
        for eps in threat.budgets:
            values = level.judged(threat.ids, eps)
            if values is None or np.isnan(values).all():
                continue
            head = (name.replace(" ", "-"), threat.norm, threat.domain, np.nan if eps is None else eps)
            seen = ~np.isnan(values)
            if eps is not None:
                yield Row(metric_name("r_inf", threat.norm), *head, float(values[seen].mean()), int(seen.sum()))
                continue
            yield Row(metric_name("r_2", threat.norm), *head, mean_distance(values[seen]).value, int(seen.sum()))
            yield Row("median_distance", *head, median_distance(values[seen], level.correct[seen]), int(seen.sum()))


def _summary(
    study: Plan,
    store: Store,
    levels: Sequence[Finished],
    grouped: Sequence[Family],
    evidence: Sequence[Evidence],
    failures: Sequence[Event],
) -> Summary:
    spec = study.spec
    findings, checks = audit_study(sorted(levels, key=lambda one: study.arms.index(one.level.arm)))
    return Summary(
        isogrid=isogrid.__version__,
        name=spec.name,
        data=tuple(_source(network, store) for network in study.networks),
        seeds=max(spec.seeds_of(model) for model in spec.models),
        arms=study.arms,
        linear=tuple(network.spec.title for network in study.networks if network.linear),
        tolerance=spec.tolerance.model_dump(),
        attacks=tuple(_attacks(levels)),
        curves=tuple(
            curve for family, one in zip(grouped, evidence, strict=True) for curve in (*curves(family, one), *truths(family, one))
        ),
        transfer=tuple(
            Matrix(
                arm=one.arm,
                attack=one.cell.about.id,
                levels=one.levels,
                sparsity=tuple(next(f for f in grouped if f.arm == one.arm).sparsity(level) for level in one.levels),
                matrix=store.read(one.cell.key).metrics["matrix"],
            )
            for one in study.transfers
            if store.finished(one.cell.key)
        ),
        grids=tuple(grids(study, grouped)),
        brackets=tuple(one for family in grouped for one in brackets(family)),
        mechanism=tuple(one for family in grouped for one in mechanisms(family)),
        audit=findings,
        audit_checks=checks,
        recommendation=tuple(recommend(evidence, spec.tolerance.model_dump())),
        failures=tuple(Failure(task=event.task.label, reason=event.reason) for event in failures),
    )


def _source(network: Network, store: Store) -> Source:
    counts = {name: store.read(network.data.key).metrics[name] for name in ("train", "test", "classes")}
    return Source(model=network.spec.title, name=network.data.title, source=network.source, unproved=network.unproved, **counts)


def _attacks(levels: Sequence[Finished]) -> Iterator[Used]:
    """Every attack that has finished on some pruned level."""
    seen: set[str] = set()
    for one in levels:
        for cell in () if one.level.arm.control else one.plan.attacks:
            told = cell.about
            if told.id in one.level.attacks and told.id not in seen:
                seen.add(told.id)
                where = {name: getattr(told, name) for name in ("id", "name", "norm", "domain", "eps")}
                yield Used(**where, samples=len(one.level.attacks[told.id].records), config=cell.settings)


def _write_timings(study: Plan, store: Store) -> None:
    rows = [(cell.key, cell.label, store.read(cell.key).seconds) for cell in study.cells if store.finished(cell.key)]
    frame = pd.DataFrame(rows, columns=["key", "task", "cpu_seconds"])
    write_text(store.root / "timings.csv", frame.to_csv(index=False, lineterminator="\n"))


def _write_gallery(study: Plan, levels: Sequence[Finished], store: Store) -> None:
    """The stored adversarial examples of the first seed's pruned levels, of the first arm of every model, with the clean images."""
    tensors: dict[str, torch.Tensor] = {}
    shown_arms = {arm.model: arm for arm in reversed(study.arms) if not arm.control}
    for one in levels:
        arm, level = one.level.arm, one.level
        if level.seed != 0 or arm != shown_arms[arm.model]:
            continue
        for cell, entry in one.cells:
            if isinstance(cell, Attack) and entry.has("examples"):
                shown = entry.tensors("examples")
                tensors |= {f"{arm.model}/{level.level}/{cell.about.id}/{part}": value for part, value in shown.items()}
        clean = store.read(study.network(arm).data.key).tensors("examples")
        tensors[f"{arm.model}/clean"], tensors[f"{arm.model}/label"] = clean["x"], clean["label"]
    if tensors:
        save_tensors(store.root / "gallery.safetensors", tensors)
