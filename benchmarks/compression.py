"""Compression at an error, on the official MNIST: dynamic network surgery against its published figures, progressive pruning beside it
at equal training, and sparse variational dropout, which chooses its own sparsity.

One thread. Every result is a file in --out, named by its recipe, and is not computed again: the script goes on where it stopped, and
--seeds may grow.
`python benchmarks/compression.py --data FOLDER [--seeds 3] [--networks lenet-5] [--methods surgery-target]` writes COMPRESSION.md from
all results that are there.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import HERE
from torch import nn

from isogrid import data, models
from isogrid.core.files import digest, load_tensors, read_json, save_tensors, write_json, write_text
from isogrid.data import Split
from isogrid.sparsity import PRUNERS, Masks
from isogrid.training import FitConfig, OptimizerConfig, fit

PUBLISHED = {
    ("lenet-300-100", "surgery-target"): (56, 1.99),
    ("lenet-300-100", "progressive"): (12, 1.59),
    ("lenet-300-100", "variational-dropout"): (68, 1.92),
    ("lenet-5", "surgery-target"): (108, 0.91),
    ("lenet-5", "progressive"): (12, 0.77),
    ("lenet-5", "variational-dropout"): (280, 0.75),
}
"""Compression and test error in per cent: Guo et al. 2016, Han et al. 2015, Molchanov et al. 2017."""
SGD = OptimizerConfig(lr=0.1, weight_decay=5e-4)
ROUNDS = 8
"""Of progressive pruning; together they are as long as the surgery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained: the reference, then surgery (and progressive, in as many epochs), or variational dropout."""

    reference: FitConfig
    surgery: FitConfig
    variational: FitConfig
    settings: dict[str, float]
    """Of variational dropout."""


RECIPES = {
    "lenet-300-100": Recipe(
        reference=FitConfig(epochs=15, batch_size=128, optimizer=SGD),
        surgery=FitConfig(epochs=64, batch_size=128, optimizer=SGD),
        variational=FitConfig(epochs=100, batch_size=256, optimizer=OptimizerConfig(name="adam", lr=2e-3)),
        settings={"strength": 2.5, "travel": 60.0, "until": 0.85},
    ),
    "lenet-5": Recipe(
        reference=FitConfig(epochs=4, batch_size=128, optimizer=dataclasses.replace(SGD, lr=0.05)),
        surgery=FitConfig(epochs=24, batch_size=128, optimizer=dataclasses.replace(SGD, lr=0.05)),
        variational=FitConfig(epochs=40, batch_size=256, optimizer=OptimizerConfig(name="adam", lr=2e-3)),
        settings={"strength": 2.0, "travel": 60.0, "until": 0.85},
    ),
}


def target(network: nn.Module, compression: float) -> float:
    """The sparsity at which all parameters, biases included, are `compression` times as many as those that are left."""
    weights = Masks.dense(network).total
    every = sum(p.numel() for p in network.parameters())
    return 1 - (int(every / compression) - (every - weights)) / weights


def error(network: nn.Module, split: Split) -> float:
    """The share of test samples that are classified wrongly, in per cent."""
    with torch.no_grad():
        wrong = [(network(x).argmax(1) != y).sum() for x, y in zip(split.test.x.split(500), split.test.y.split(500), strict=True)]
    return 100 * float(torch.stack(wrong).sum()) / split.test.n


def built(name: str, seed: int) -> nn.Module:
    """The network before any training."""
    return models.build(name, (1, 28, 28), 10, seed)


def reference(name: str, seed: int, split: Split, out: Path) -> nn.Module:
    """The dense network, trained once."""
    network = built(name, seed)
    path = out / f"{name}-{digest(dataclasses.asdict(RECIPES[name].reference))}-{seed}.safetensors"
    if path.exists():
        network.load_state_dict(load_tensors(path))
    else:
        fit(network, split.train.x, split.train.y, RECIPES[name].reference, seed=seed)
        save_tensors(path, network.state_dict())
    return network.eval()


def levels(name: str, method: str, network: nn.Module) -> list[tuple[FitConfig, dict[str, Any]]]:
    """The trainings that a method is given, with its settings in each."""
    recipe = RECIPES[name]
    if method == "variational-dropout":
        return [(recipe.variational, {"name": method, **recipe.settings})]
    sparsity = target(network, PUBLISHED[name, "surgery-target"][0])
    if method == "surgery-target":
        return [(recipe.surgery, {"name": method, "sparsity": sparsity, "allocation": "global"})]
    share = dataclasses.replace(recipe.surgery, epochs=recipe.surgery.epochs // ROUNDS)
    return [(share, {"name": method, "rate": 1 - (1 - sparsity) ** (1 / ROUNDS), "allocation": "global"})] * ROUNDS


def results(name: str, method: str, out: Path) -> str:
    """Where the results of the recipe as it stands are, and those of no other; `{}` stands for the seed."""
    steps = [(dataclasses.asdict(config), pruner) for config, pruner in levels(name, method, built(name, 0))]
    return f"{out}/{name}-{method}-{digest([dataclasses.asdict(RECIPES[name].reference), steps])}-{{}}.json"


def result(name: str, method: str, seed: int, split: Split, out: Path) -> dict[str, Any]:
    """Train, prune and measure; the reference's error stands beside."""
    started = time.process_time()
    network = reference(name, seed, split, out)
    dense, log, epochs = error(network, split), None, 0
    for level, (config, pruner) in enumerate(levels(name, method, network), 1):
        log = fit(
            network,
            split.train.x,
            split.train.y,
            config,
            seed=seed,
            purpose=("level", level),
            pruner=PRUNERS.make(pruner),
            masks=None if log is None else log.masks,
            state=None if log is None else log.state,
        )
        epochs += config.epochs
    if log is None:
        raise AssertionError(f"{method} has no levels")
    revisions, every = log.state.get("revisions"), sum(p.numel() for p in network.parameters())
    biases = every - log.masks.total
    return {
        "error": error(network, split),
        "dense": dense,
        "weights": log.masks.total / log.masks.kept,
        "parameters": every / (log.masks.kept + biases),
        "layers": [int(mask.sum()) for mask in log.masks.values()],
        "back": None if revisions is None else int(revisions[:, 2].sum()),
        "epochs": epochs,
        "seconds": time.process_time() - started,
    }


def table(out: Path, seeds: int) -> str:
    """The results that are there, one row a network and method."""
    lines = [
        "# Compression at an error, on the official MNIST",
        "",
        "Written by compression.py; not edited by hand. 60,000 digits to train on, error on the 10,000 test digits after the last step:",
        "no epoch is chosen by it. Compression: all weights by those left; in brackets all parameters, the biases (which are not pruned)",
        "counted as left. Mean over seeds, and the seeds' range.",
        "",
        "| network | method | published | seeds | compression | error % | dense % | weights left per layer | came back | epochs | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (name, method), (compression, wrong) in PUBLISHED.items():
        found = [read_json(path) for seed in range(seeds) if (path := Path(results(name, method, out).format(seed))).exists()]
        if not found:
            continue
        columns = {key: [one[key] for one in found] for key in ("error", "dense", "weights", "parameters", "epochs", "seconds")}
        mean = {key: statistics.fmean(values) for key, values in columns.items()}
        layers = " / ".join(str(round(statistics.fmean(counts))) for counts in zip(*(one["layers"] for one in found), strict=True))
        back = "" if method != "surgery-target" else f"{statistics.fmean(one['back'] for one in found):,.0f}"
        lines.append(
            f"| {name} | {method} | {compression}x at {wrong} | {len(found)} | {mean['weights']:.1f}x ({mean['parameters']:.1f}x) "
            f"| {mean['error']:.2f} [{min(columns['error']):.2f}, {max(columns['error']):.2f}] | {mean['dense']:.2f} "
            f"| {layers} | {back} | {mean['epochs']:.0f} | {mean['seconds']:,.0f} |"
        )
    return "\n".join([*lines, "", *_recipes(), "", f"{platform.machine()}, one thread, torch {torch.__version__}.", ""])


def _recipes() -> list[str]:
    lines = []
    for name, recipe in RECIPES.items():
        parts = [
            f"{title} {config.epochs} epochs of batch {config.batch_size}, {config.optimizer.name} lr {config.optimizer.lr:g}"
            for title, config in (("reference", recipe.reference), ("surgery", recipe.surgery), ("variational dropout", recipe.variational))
        ]
        settings = ", ".join(f"{key} {value:g}" for key, value in recipe.settings.items())
        lines.append(f"- {name}: {'; '.join(parts)} ({settings}); one-cycle; progressive: {ROUNDS} rounds, together as long")
    return lines


def main() -> None:
    """Compute what is missing, seed by seed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the folder of the official MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=HERE / ".cache" / "compression")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=list(RECIPES))
    parser.add_argument("--methods", nargs="+", default=["surgery-target", "progressive", "variational-dropout"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    split = data.load(f"mnist:{args.data}")
    for seed in range(args.seeds):
        for name in args.networks:
            for method in args.methods:
                path = Path(results(name, method, args.out).format(seed))
                if not path.exists():
                    found = result(name, method, seed, split, args.out)
                    write_json(path, found)
                    print(name, method, seed, found, flush=True)
    write_text(HERE / "COMPRESSION.md", table(args.out, args.seeds))


if __name__ == "__main__":
    main()
