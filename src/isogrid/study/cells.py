"""What a worker does for one cell: train a level, attack a level, compute the theory of a linear level. Not here: which cells there are."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from isogrid import attacks, data, models
from isogrid.attacks import transfer_matrix
from isogrid.attacks.driver.base import margin
from isogrid.attacks.records import no_records, to_numpy
from isogrid.audit.model import clean_passes, examine_model
from isogrid.audit.records import CleanRecord
from isogrid.core.errors import InputError, ModelError
from isogrid.core.files import canonical
from isogrid.core.random import derive
from isogrid.data import Samples, Split
from isogrid.sparsity import PRUNERS, Masks, live_outputs, prunable
from isogrid.study.records import put_outcome
from isogrid.study.store import Store
from isogrid.theory import linear_theory, linear_weights
from isogrid.training import EarlyStop, FitConfig, OptimizerConfig, fit
from isogrid.training.substitute import SubstituteConfig, blackbox, labels_of, train_substitute

EXAMPLES = 12
"""How many of the first test samples keep their adversarial example, for the gallery."""


def load_split(configuration: dict[str, Any]) -> Split:
    """The samples of a data configuration (as in a task's key); kept for the life of the process."""
    return _load_split(canonical({k: v for k, v in configuration.items() if k != "digest"}))


@lru_cache(maxsize=4)
def _load_split(text: str) -> Split:
    values = json.loads(text)
    classes = values["classes"]
    return data.load(values["name"], train=values["train"], test=values["test"], classes=None if classes is None else tuple(classes))


def describe(root: str, key: str, data: dict[str, Any]) -> None:
    """Store what tables and networks need to know of the samples, so that a study can be read where its data are not."""
    store, split = Store(Path(root)), load_split(data)
    if store.finished(key):
        return
    metrics = {
        "train": split.train.n,
        "test": split.test.n,
        "classes": split.train.classes,
        "source": split.source,
        "shape": list(split.test.shape),
    }
    with store.write(key) as cell:
        examples = {"x": split.test.x[:EXAMPLES], "label": split.test.y[:EXAMPLES]}
        cell.put(metrics=metrics, cpu_seconds=0.0, tensors={"examples": examples})


def check_source(field: str, name: str, digest: str) -> None:
    """Raises InputError where the file behind a model's name is not the one with that digest."""
    source = models.source_digest(name)
    if source != digest:
        what = "has changed" if source else "is missing"
        raise InputError(field, f"{name}, whose file {what}", f"the file that the study was run with (SHA-256 {digest}...)")


def build_model(configuration: dict[str, Any], shape: tuple[int, ...], classes: int, seed: int, device: str) -> nn.Module:
    """The network of a model configuration, freshly initialised from (seed, "init"), in channels_last where it sees images.

    Raises InputError where the factory's file is not the one that the configuration was made with.
    """
    check_source("model", configuration["name"], configuration["source"])
    model = models.build(configuration["name"], shape, classes, derive(seed, "init"))
    if len(shape) == 3:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def train(
    root: str,
    key: str,
    *,
    data: dict[str, Any],
    model: dict[str, Any],
    seed: int,
    level: int,
    fit_config: dict[str, Any],
    pruner: dict[str, Any] | None,
    parent: str | None,
    weights: str | None,
    device: str,
) -> None:
    """Train level 0 from scratch, or prune the parent level and retrain, or take the user's `weights`; store weights and masks."""
    started = time.process_time()
    store, split = Store(Path(root)), load_split(data)
    network = build_model(model, split.train.shape, split.train.classes, seed, device)
    masks, method = Masks.dense(network), None
    if parent is not None and pruner is not None:
        before = store.read(parent)
        network.load_state_dict(before.tensors("weights"))
        masks = Masks(before.tensors("masks"))
        method = PRUNERS.make({"name": pruner["method"]} | {k: v for k, v in pruner.items() if k != "method"})
    elif weights is not None:
        models.load_weights(network, Path(weights))
        masks = Masks.of_zeros(network)
    losses: tuple[float, ...] = ()
    if weights is None:
        settings = fit_config | {
            "optimizer": OptimizerConfig(**fit_config["optimizer"]),
            "early_stop": None if fit_config["early_stop"] is None else EarlyStop(**fit_config["early_stop"]),
        }
        x, y = split.train.x.to(device), split.train.y.to(device)
        log = fit(network, x, y, FitConfig(**settings), seed=seed, purpose=("level", level), pruner=method, masks=masks)
        losses, masks = log.losses, log.masks
    records, metrics = evaluate(network, split.test, device)
    metrics |= {
        "sparsity": masks.sparsity,
        "kept": masks.kept,
        "total": masks.total,
        "layers": {name: int(mask.sum()) for name, mask in masks.items()},
        "masks": masks.digest(),
        "loss": losses[-1] if losses else None,
        "epochs": len(losses),
    }
    tensors = {"weights": {k: v.contiguous() for k, v in network.state_dict().items()}, "masks": dict(masks)}
    with store.write(key) as cell:
        cell.put(metrics=metrics, cpu_seconds=time.process_time() - started, records=records, tensors=tensors)


def evaluate(network: nn.Module, test: Samples, device: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Per-sample predictions on the clean test samples, and whether the level has collapsed."""
    x, y = test.x.to(device), test.y.to(device)
    z, again, reach = clean_passes(network, x, y, test.box)
    seen = CleanRecord.of_logits(z, y, again)
    prediction = z.argmax(1)
    gap = margin(z, y)
    frame = pd.DataFrame(
        {
            "sample": np.arange(len(y)),
            "label": to_numpy(y),
            "prediction": to_numpy(prediction),
            "margin": to_numpy(gap.double()),
            "reach": reach,
        }
    )
    live = live_outputs(network, x)
    constant = bool((prediction == prediction[0]).all())
    return frame, {
        "accuracy": float((prediction == y).double().mean()),
        "dead_outputs": int((~live).sum()),
        "constant": constant,
        "collapsed": constant or not bool(live.all()),
        "rounding": seen.rounding,
        "probabilities": seen.probabilities,
        "repeat_difference": seen.repeat_difference if math.isfinite(seen.repeat_difference or 0.0) else None,
    }


def restore(store: Store, train_key: str, model: dict[str, Any], shape: tuple[int, ...], classes: int, device: str = "cpu") -> nn.Module:
    """The network of a finished train cell, in eval mode."""
    network = build_model(model, shape, classes, 0, device)
    network.load_state_dict(store.read(train_key).tensors("weights"))
    return network.eval()


def _network(root: str, train_key: str, data: dict[str, Any], model: dict[str, Any], device: str) -> nn.Module:
    train = load_split(data).train
    return restore(Store(Path(root)), train_key, model, train.shape, train.classes, device)


@lru_cache(maxsize=2)
def _trained(root: str, train_key: str, data_text: str, model_text: str, device: str) -> nn.Module:
    return _network(root, train_key, json.loads(data_text), json.loads(model_text), device)


def trained(root: str, train_key: str, data: dict[str, Any], model: dict[str, Any], device: str) -> nn.Module:
    """As `restore`; the last two stay in memory, for the attacks on the same level."""
    return _trained(root, train_key, canonical(data), canonical(model), device)


def attack(
    root: str,
    key: str,
    *,
    train_key: str,
    data: dict[str, Any],
    model: dict[str, Any],
    seed: int,
    config: dict[str, Any],
    samples: int | None,
    before: list[str],
    device: str,
) -> None:
    """Attack the first `samples` test samples of a trained level and store one record per sample.

    `before`: attack cells of the same threat; only samples that none of them broke are attacked, and only those have a record.
    """
    started = time.process_time()
    test = load_split(data).test
    network = trained(root, train_key, data, model, device)
    rows = torch.arange(test.n if samples is None else min(samples, test.n))
    for earlier_key in before:
        earlier = Store(Path(root)).read(earlier_key).records
        broken = torch.tensor(earlier.loc[(earlier["success"] | (earlier["clean"] != earlier["label"])), "sample"].to_numpy())
        rows = rows[~torch.isin(rows, broken)]
    if len(rows) == 0:
        with Store(Path(root)).write(key) as cell:
            cell.put(metrics={"n": 0}, cpu_seconds=time.process_time() - started, records=no_records(), tensors={"examples": {}})
        return
    x, y = test.x[rows].to(device), test.y[rows].to(device)
    outcome = attacks.make(config)(network, x, y, seed=derive(seed, "attack"), ids=rows, box=test.box)
    shown = (
        {}
        if before
        else {
            "x_adv": outcome.x_adv[:EXAMPLES],
            "success": outcome.success[:EXAMPLES],
            "distance": outcome.distance[:EXAMPLES],
            "prediction": outcome.adversarial[:EXAMPLES],
        }
    )
    with Store(Path(root)).write(key) as cell:
        put_outcome(cell, outcome, rows, time.process_time() - started, shown)


def theory(root: str, key: str, *, train_key: str, data: dict[str, Any], model: dict[str, Any], eps: list[float], device: str) -> None:
    """The bounds and exact quantities of a linear level (PAPER.md, theory 1 and 2)."""
    started = time.process_time()
    test = load_split(data).test
    network = trained(root, train_key, data, model, device)
    affine = linear_weights(network, test.shape)
    if affine is None:
        raise ModelError("theory: the model is not affine in float64, though it was when the study was planned")
    x, y = test.x.to(device), test.y.to(device)
    rows = [row._asdict() for row in linear_theory(*affine, x, y, eps=eps, box=test.box).rows()]
    exact = attacks.make({"name": "deepfool", "candidates": None, "overshoot": 0.0, "domain": "free"})
    found = exact(network, x, y, box=test.box).distance.double()
    rows.append({"metric": "r_2_deepfool", "norm": "l2", "domain": "free", "eps": math.nan, "value": float(found[found.isfinite()].mean())})
    for row in rows:
        row |= {name: None for name in ("eps", "value") if not math.isfinite(row[name])}
    with Store(Path(root)).write(key) as cell:
        cell.put(metrics={"rows": rows}, cpu_seconds=time.process_time() - started)


def transfer(
    root: str,
    key: str,
    *,
    train_keys: list[str],
    data: dict[str, Any],
    model: dict[str, Any],
    seed: int,
    config: dict[str, Any],
    samples: int | None,
    device: str,
) -> None:
    """Accuracy of every level (columns) on what fools every level (rows), on the first `samples` test samples."""
    started = time.process_time()
    test = load_split(data).test
    x, y = test.x[:samples].to(device), test.y[:samples].to(device)
    networks = [_network(root, train_key, data, model, device) for train_key in train_keys]
    matrix = transfer_matrix(networks, attacks.make(config), x, y, seed=derive(seed, "attack"), box=test.box)
    with Store(Path(root)).write(key) as cell:
        cell.put(metrics={"matrix": matrix.tolist(), "n": len(y)}, cpu_seconds=time.process_time() - started)


def substitute(
    root: str,
    key: str,
    *,
    train_key: str,
    data: dict[str, Any],
    model: dict[str, Any],
    seed: int,
    config: dict[str, Any],
    device: str,
) -> None:
    """Train a substitute on the level's labels of a few training samples, attack it, submit what comes out to the level."""
    started = time.process_time()
    split = load_split(data)
    network = trained(root, train_key, data, model, device)
    test = split.test.to(device)
    check_source("blackbox.model", config["model"], config["source"])
    made = train_substitute(
        labels_of(network),
        split.train.x[: config["seed_samples"]].to(device),
        lambda: models.build(config["model"], test.shape, test.classes, derive(seed, "substitute")).to(device),
        SubstituteConfig(rounds=config["rounds"]),
        seed=seed,
        box=test.box,
    )
    inner = attacks.make(config["attack"])
    found = blackbox(network, made.model, [inner], test.x, test.y, seed=derive(seed, "attack"), box=test.box)
    with Store(Path(root)).write(key) as cell:
        put_outcome(cell, found.transferred[0], torch.arange(test.n), time.process_time() - started, {})


def audit(
    root: str,
    key: str,
    *,
    train_key: str,
    data: dict[str, Any],
    model: dict[str, Any],
    seed: int,
    configs: list[dict[str, Any]],
    samples: int,
    device: str,
) -> None:
    """Probe one level: what `examine_model` finds with the study's attacks on the first `samples` test samples."""
    started = time.process_time()
    test = load_split(data).test
    x, y = test.x[:samples].to(device), test.y[:samples].to(device)
    chosen = [attacks.make(config) for config in configs]
    found = examine_model(
        trained(root, train_key, data, model, device), x, y, chosen, seed=derive(seed, "audit"), samples=samples, box=test.box
    )
    with Store(Path(root)).write(key) as cell:
        cell.put(metrics=asdict(found), cpu_seconds=time.process_time() - started)


def model_size(network: nn.Module) -> tuple[int, int]:
    """(prunable weights, all parameters)."""
    return sum(w.numel() for w in prunable(network).values()), sum(p.numel() for p in network.parameters())
