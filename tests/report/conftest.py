"""A made-up study folder with the schema of a real one. Every number in it is SYNTHETIC: smooth formulas plus seeded noise."""
# ruff: noqa: E501  (rows of made-up tables read best unbroken)

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from isogrid.audit.findings import PlacedFinding
from isogrid.core.typed import plain
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.results import Best, Change, Compromise, Fragile, Highest, Quantity, Recommendation, Share, Verdict

ATTACKS = [
    {"id": "fgs@0.1", "name": "fgs", "norm": "linf", "domain": "box", "eps": 0.1, "samples": 1000, "config": {"eps": 0.1}},
    {"id": "rfgs@0.1", "name": "rfgs", "norm": "linf", "domain": "box", "eps": 0.1, "samples": 1000, "config": {"eps": 0.1}},
    {"id": "pgd@0.1", "name": "pgd", "norm": "linf", "domain": "box", "eps": 0.1, "samples": 1000, "config": {"eps": 0.1, "steps": 40}},
    {"id": "deepfool", "name": "deepfool", "norm": "l2", "domain": "free", "eps": None, "samples": 1000, "config": {"overshoot": 0.02}},
    {"id": "cw", "name": "cw", "norm": "l2", "domain": "box", "eps": None, "samples": 200, "config": {"searches": 5}},
    {"id": "ddn", "name": "ddn", "norm": "l2", "domain": "box", "eps": None, "samples": 1000, "config": {"steps": 100}},
]
STRENGTH = {"fgs@0.1": 0.30, "rfgs@0.1": 0.55, "pgd@0.1": 0.22, "deepfool": 0.9, "cw": 0.84, "ddn": 0.8, "envelope": 0.0}
TITLES = [
    "linear: r_inf rises, r_2 does not",
    "both rise up to a threshold",
    "beyond the threshold robustness falls",
    "activations",
    "black box",
]


def _arm(model: str, pruner: str = "progressive") -> Arm:
    return Arm(data="made-up", model=model, objective="natural", pruner=pruner, control=pruner == "dense")


def _curve(model: str, method: str, metric: str, attack: Mapping, points: list[dict]) -> dict:
    group = {"metric": metric} | {name: attack[name] for name in ("norm", "domain", "eps")}
    return {"arm": asdict(_arm(model)), "control": method == "dense", "attack": attack["id"], "group": group, "points": points}


def _value(model: str, metric: str, base: float, level: int, levels: int, pruned: bool, rng: np.random.Generator) -> float:
    share = level / max(levels - 1, 1)
    fall = 1.0 / (1.0 + math.exp(24 * (share - 0.93)))
    if metric == "accuracy":
        value = base * (fall if pruned else 1.0)
    elif metric == "r_inf":
        value = base * (1 + (0.9 * math.sin(1.7 * share) if pruned else 0.02)) * (fall if pruned else 1.0)
    else:
        gain = -0.5 if model.startswith("linear") else 0.12
        value = base * (1 + (gain * share if pruned else 0.0)) * (fall if pruned else 1.0)
    return max(0.0, value + rng.normal(0, 0.008))


def _points(values: np.ndarray, sparsity: Sequence[float], levels: Sequence[int], metric: str, n: int) -> list[dict]:
    rows = []
    for place, level in enumerate(levels):
        mean, sd = float(values[place].mean()), float(values[place].std(ddof=1)) if values.shape[1] > 1 else None
        half = 1.96 * math.sqrt(((sd or 0.0) ** 2) / values.shape[1] + 0.25 * max(mean, 0.01) / n) * 1.5
        rows.append({"level": level, "sparsity": sparsity[place], "mean": mean, "sd": sd, "low": mean - half, "high": mean + half,
                     "seeds": values.shape[1], "n": n, "saturated": metric == "r_inf" and mean < 0.05, "collapsed": False, "void": False})  # fmt: skip
    return rows


def write_study(
    folder: Path,
    *,
    models: Sequence[str] = ("linear", "lenet-300-100"),
    seeds: int = 3,
    rounds: int = 14,
    control: bool = True,
    gallery: bool = True,
    envelope: bool = True,
    transfer: bool = True,
    classes: int = 10,
    failures: Sequence[Mapping[str, str]] = (),
    verdicts: Sequence[str] = ("supported", "contradicted", "undecided", "no control", "not applicable"),
    recommendation: bool = True,
    name: str = "synthetic",
) -> Path:
    """Write the tables of a made-up study into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    sparsity = [1 - (2 / 3) ** level for level in range(rounds + 1)]
    curves, rows = [], []

    def add(model: str, method: str, metric: str, attack: Mapping, base: float, levels: Sequence[int]) -> None:
        values = np.array([[_value(model, metric, base, k, rounds + 1, method != "dense", rng) for _ in range(seeds)] for k in levels])
        at = [sparsity[k] if method != "dense" else 0.0 for k in levels]
        points = _points(values, at, levels, metric, attack["samples"])
        if method != "dense" and levels[-1] == rounds:
            points[-1]["collapsed"] = True
        if attack["id"] == "cw" and method != "dense":
            points[0] |= {"void": True, "mean": None, "sd": None, "low": None, "high": None, "failed": 30, "attacked": 540, "median": 0.412}
            points[-1] |= {"failed": 30 if len(points) == 1 else 3, "attacked": 540, "median": 0.413}
        curves.append(_curve(model, method, metric, attack, points))
        for place, level in enumerate(levels):
            for seed in range(seeds):
                rows.append({"data": "made-up", "model": model, "objective": "natural", "penalty": "", "method": method, "seed": seed, "level": level,
                             "sparsity": at[place], "metric": metric, "attack": attack["id"], "norm": attack["norm"], "domain": attack["domain"],
                             "eps": attack["eps"] if attack["eps"] is not None else math.nan, "value": values[place, seed], "n": attack["samples"]})  # fmt: skip

    clean = {"id": "", "norm": "", "domain": "", "eps": None, "samples": 1000}
    extra = [{"id": "envelope", "name": "envelope", "norm": "linf", "domain": "box", "eps": 0.1, "samples": 1000, "base": 0.17},
             {"id": "envelope", "name": "envelope", "norm": "l2", "domain": "box", "eps": None, "samples": 1000, "base": 0.76}]  # fmt: skip
    every = list(range(rounds + 1))
    for model in models:
        add(model, "progressive", "accuracy", clean, 0.95, every)
        for digit in range(classes):
            add(model, "progressive", f"accuracy_class_{digit}", clean, 0.9 + 0.01 * (digit % 5), every)
        for attack in [*ATTACKS, *(extra if envelope else [])]:
            metric = "r_inf" if attack["norm"] == "linf" else "r_2"
            base = attack.get("base", STRENGTH[attack["id"]])
            add(model, "progressive", metric, attack, base, every)
            if control and attack["name"] not in ("rfgs", "cw"):
                add(model, "dense", metric, attack, base, [k for k in (0, 6, 10) if k <= rounds])
        if control:
            add(model, "dense", "accuracy", clean, 0.95, every)
        if model.startswith("linear"):
            for metric, norm, eps, start, stop in (("bound_r_2", "l2", math.nan, 3.0, 1.5), ("r_2_optimal", "l2", math.nan, 0.88, 0.44), ("bound_r_inf", "linf", 0.1, 1.7, 0.8),
                                                   ("r_inf_optimal", "linf", 0.1, 0.22, 0.4), ("assumption_share", "linf", 0.1, 1.0, 0.97)):  # fmt: skip
                for level in every:
                    for seed in range(seeds):
                        value = start + (stop - start) * level / max(rounds, 1)
                        rows.append({"data": "made-up", "model": model, "objective": "natural", "penalty": "", "method": "progressive", "seed": seed,
                                     "level": level, "sparsity": sparsity[level], "metric": metric, "attack": "theory", "norm": norm, "domain": "free",
                                     "eps": eps, "value": value + rng.normal(0, 0.01), "n": 1000})  # fmt: skip
    frontier = pd.DataFrame(rows)
    frontier.to_parquet(folder / "frontier.parquet")
    frontier.to_csv(folder / "frontier.csv", index=False)
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": name, "models": list(models), "seeds": seeds, "attacks": ATTACKS}))
    names = {"data": "made-up", "objective": "natural", "method": "progressive"}
    shares = (
        Share(measure="r_inf", effect=0.08, low=0.05, high=0.11, p=0.0004),
        Share(measure="r_2", effect=-0.01, low=-0.03, high=math.inf, p=0.2),
    )
    claims = [
        Verdict(
            **names,
            model=model,
            claim=number + 1,
            verdict=verdict,
            statement=f"made-up statement: {TITLES[number]}",
            parts=shares,
            effect=0.08 if verdict in ("supported", "contradicted") else None,
            interval=(0.05, 0.11) if verdict != "not applicable" else None,
            levels=tuple(range(1, 11)),
            control="dense control of equal training" if verdict != "no control" else "",
            reason=f"made-up reason {number}",
        )
        for model in models
        for number, verdict in enumerate(verdicts)
    ]
    (folder / "claims.json").write_text(json.dumps(plain(claims)))
    finding = PlacedFinding(
        **names,
        code="IG004",
        severity="warning",
        title="More steps still help",
        detail="PGD-80 breaks 1.2 % more than PGD-40 (synthetic).",
        remedy="Raise steps to 80.",
        model=models[0],
        level=6,
    )
    audit = [finding, replace(finding, code="IG009", severity="info", title="Saturated level", level=None)]
    half = max(rounds // 2, 1)
    summary = {
        "isogrid": "0.1.0", "name": name, "data": [{"model": model, "name": "made-up", "train": 4000, "test": 1000, "source": "synthetic, for tests"} for model in models],
        "seeds": seeds, "arms": [asdict(_arm(model)) for model in models], "attacks": ATTACKS,
        "tolerance": {"r_inf": 0.02, "distance": 0.03, "accuracy": 0.02}, "curves": curves,
        "recommendation": plain(recommend(models, sparsity, half)) if recommendation and rounds > 1 else [],
        "audit": plain(audit),
        "failures": list(failures),
        "transfer": [{"arm": asdict(_arm(model)), "levels": [0, half, rounds], "sparsity": [sparsity[k] for k in (0, half, rounds)], "attack": "pgd@0.1",
                      "matrix": [[0.2, 0.7, 0.9], [0.6, 0.3, 0.85], [0.8, 0.8, 0.4]]} for model in models] if transfer else [],
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    if gallery:
        save_file(_gallery(models, sorted({0, half, rounds}), rng), folder / "gallery.safetensors")
    return folder


def recommend(models: Sequence[str], sparsity: Sequence[float], level: int) -> list[Recommendation]:
    """A made-up recommendation per model; of the second model the l2 answer and the compromise are undecided, and nothing is fragile."""
    linf = Quantity(measure="envelope-linf-box@0.1", attack="envelope", norm="linf", domain="box", eps=0.1)
    l2 = Quantity(measure="envelope-l2-box", attack="envelope", norm="l2", domain="box", unit="relative")
    rows = []
    for place, model in enumerate(models):
        sure = place != 1

        def best(at: int, of: Quantity, decided: bool) -> Best:
            gain = {"effect": 0.12, "low": 0.08, "high": 0.16, "seeds": 3}
            return Best(**asdict(of), **gain, level=at, value=0.31, decided=decided, equal_levels=(at,))

        lost = Change(measure="accuracy", effect=-0.2, low=-0.25, high=-0.15, seeds=3)
        rows.append(
            Recommendation(
                data="made-up",
                model=model,
                objective="natural",
                method="progressive",
                seeds=3,
                sparsity=dict(enumerate(sparsity)),
                most_robust=(best(level, linf, True), best(max(level - 2, 0), l2, sure)),
                compromise=Compromise(level=level, decided=sure),
                highest_sparsity=Highest(level=level + 1 if sure else 0, decided=sure, stopped_at=len(sparsity) - 1),
                first_fragile=Fragile(level=len(sparsity) - 2, losses=(lost,)) if sure else Fragile(),
            )
        )
    return rows


def _gallery(models: Sequence[str], levels: Sequence[int], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    y, x = np.mgrid[0:28, 0:28]
    rings = [np.exp(-((np.hypot(x - 14, y - 14 + k) - 3 - k) ** 2) / 4) for k in range(6)]
    clean = torch.tensor(np.stack(rings), dtype=torch.float32)[:, None]
    tensors = {"clean": clean, "label": torch.arange(6)}
    for model in models:
        for level in levels:
            for attack in ("pgd@0.1", "deepfool"):
                noise = torch.tensor(rng.normal(0, 0.06, clean.shape), dtype=torch.float32)
                distance = noise.flatten(1).norm(dim=1)
                success = torch.ones(6, dtype=torch.bool)
                distance[4], success[4] = math.inf, False
                distance[5], noise[5] = 0.0, 0.0
                key = f"{model}/{level}/{attack}"
                tensors |= {f"{key}/x_adv": clean + noise, f"{key}/success": success, f"{key}/distance": distance,
                            f"{key}/prediction": torch.tensor([3, 7, 8, 5, 4, 9])}  # fmt: skip
    return tensors


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Path]:
    """`write_study`, as a fixture."""
    return write_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One full synthetic study, shared by the tests that only read it."""
    return write_study(tmp_path_factory.mktemp("study") / "synthetic", rounds=7, classes=4)
