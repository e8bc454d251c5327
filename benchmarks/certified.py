"""How tight certificates are: lower / upper ends of the minimal perturbation, per method, on networks of `quick`'s recipe.

Upper ends: DDN (l2) and FMN and minimised APGD-T (l_inf), exact and leaky backward passes, and what branch and bound finds. The first
correct test samples, domain free, one thread. Every five samples of a network are a file in --out and are not computed again: the script
resumes, --samples may grow, and --workers work side by side.
`python benchmarks/certified.py --out FOLDER [--samples 100] [--networks lenet-300-100 conv] [--workers 2]` writes CERTIFIED.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import machine
from torch import Tensor, nn

from isogrid import attacks, data, models
from isogrid.certify import make
from isogrid.core.files import load_tensors, read_json, save_tensors, write_json, write_text
from isogrid.data import Samples, Split
from isogrid.sparsity import PRUNERS
from isogrid.training import FitConfig, fit

ROUNDS = (0, 6, 7)
"""Of progressive pruning by a third of what is left: 0, 91.2 and 94.1 % sparse."""
SECONDS = {"lenet-300-100": 5.0, "conv": 20.0}
"""A sample's, of branch and bound."""
BLOCK = 5
METHODS: tuple[dict[str, Any], ...] = ({"name": "crown-ibp"}, {"name": "crown"}, {"name": "alpha-crown"}, {"name": "branch-and-bound"})
UPPER: dict[str, tuple[dict[str, Any], ...]] = {
    "linf": tuple({"name": "fmn", "norm": "linf", "converge": True, "backward": backward} for backward in ("exact", "leaky")),
    "l2": tuple({"name": "ddn", "converge": True, "backward": backward} for backward in ("exact", "leaky")),
}
DRAFT = {
    ("lenet-300-100", "linf"): ((0.58, 0.81, 0.83), (0.60, 0.84, 0.86), (0.65, 0.94, 0.96)),
    ("lenet-300-100", "l2"): ((0.64, 0.70, 0.71), (0.73, 0.78, 0.79), (0.80, 0.89, 0.90)),
    ("conv", "linf"): ((0.42, 0.46, 0.47), (0.48, 0.60, 0.62), (0.60, 0.82, 0.84)),
    ("conv", "l2"): ((0.22, 0.22, 0.22), (0.40, 0.41, 0.41), (0.50, 0.52, 0.54)),
}
"""What is asked of CROWN, alpha-CROWN and branch and bound."""


def built(name: str, split: Split) -> nn.Module:
    """LeNet-300-100, or two strided convolutions and two layers."""
    if name != "conv":
        return models.build(name, split.train.shape, split.train.classes, 0)
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10))


def networks(name: str, split: Split, out: Path) -> dict[int, tuple[nn.Module, float]]:
    """{level: (network, its sparsity)} of the rounds, trained once."""
    network, masks, state, found = built(name, split), None, {}, {}
    for level in range(max(ROUNDS) + 1):
        path = out / f"{name}-{level}.safetensors"
        if not path.exists():
            config = FitConfig(epochs=40 if level == 0 else 15, batch_size=128, schedule="one-cycle")
            pruner = PRUNERS.make({"name": "progressive", "rate": 1 / 3}) if level else None
            log = fit(
                network, split.train.x, split.train.y, config, seed=0, purpose=("level", level), pruner=pruner, masks=masks, state=state
            )
            masks, state = log.masks, log.state
            save_tensors(path, network.state_dict())
        if level in ROUNDS and path.exists():
            kept = built(name, split)
            kept.load_state_dict(load_tensors(path))
            weights = torch.cat([m.weight.detach().flatten() for m in kept.modules() if isinstance(m, nn.Linear | nn.Conv2d)])
            found[level] = kept.eval(), float((weights == 0).double().mean())
    return found


def correct(network: nn.Module, samples: Samples, count: int) -> tuple[Tensor, Tensor]:
    """The first samples that are classified rightly."""
    with torch.no_grad():
        right = torch.nonzero(network(samples.x).argmax(1) == samples.y).squeeze(1)[:count]
    return samples.x[right], samples.y[right]


def attacked(network: nn.Module, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The smallest distances that attacks find [N]."""
    found = [attacks.make(config | {"domain": "free"})(network, x, y).distance.double() for config in UPPER[norm]]
    if norm == "linf":
        search = attacks.make({"name": "apgd-t", "eps": 0.1, "steps": 40, "targets": 9, "backward": "leaky", "domain": "free"})
        found.append(attacks.minimise(search)(network, x, y).distance.double())
    return torch.stack(found).amin(0)


def result(name: str, level: int, norm: str, first: int, out: Path) -> None:
    """The ends of a block of samples, per method its radii and CPU seconds, into a file."""
    torch.set_num_threads(1)
    split = data.load("mnist-5k")
    network, sparsity = networks(name, split, out)[level]
    x, y = (part[first:] for part in correct(network, split.test, first + BLOCK))
    upper, methods = attacked(network, x, y, norm), {}
    for config in METHODS:
        title, started = config["name"], time.process_time()
        limits = {"seconds": SECONDS[name]} if title == "branch-and-bound" else {}
        found = make(config | limits | {"norm": norm, "domain": "free"})(network, x, y, upper=upper)
        upper = torch.minimum(upper, found.upper)
        methods[title] = {"radius": found.radius.tolist(), "seconds": time.process_time() - started}
    told = {"network": name, "norm": norm, "sparsity": sparsity, "upper": upper.tolist(), "methods": methods, "machine": machine()}
    write_json(path_of(name, level, norm, first, out), told)


def path_of(name: str, level: int, norm: str, first: int, out: Path) -> Path:
    """Where a block's result is kept."""
    return out / f"{name}-{norm}-{level}-{first:03d}.json"


def table(out: Path, asked: dict[tuple[str, str], Any], samples: int) -> str:
    """What is there."""
    titles = [config["name"] for config in METHODS]
    lines = [
        "# How tight the certificates are",
        "",
        "Written by certified.py; not edited by hand. Median of lower / upper over the first correct samples of mnist-5k, seed 0, domain",
        "free; in brackets what is asked; CPU seconds a sample. Exact: share of samples whose ends are within 1 %. Branch and bound has",
        " and ".join(f"{seconds:g} s a sample on {name}" for name, seconds in SECONDS.items()) + ".",
        "",
        "| network | norm | sparsity | samples | " + " | ".join(titles) + " | exact | " + " | ".join(f"{t}, s" for t in titles) + " |",
        "|" + " --- |" * (5 + 2 * len(titles)),
    ]
    machines: set[str] = set()
    for (name, norm), goals in asked.items():
        for place, level in enumerate(ROUNDS):
            paths = [path_of(name, level, norm, first, out) for first in range(0, samples, BLOCK)]
            found = [read_json(path) for path in paths if path.exists()]
            if not found:
                continue
            machines |= {one["machine"] for one in found}
            upper, ratio = np.concatenate([one["upper"] for one in found]), np.zeros(0)
            cells, costs = [], []
            for title, goal in zip(titles, (None, *goals), strict=True):
                ratio = np.concatenate([one["methods"][title]["radius"] for one in found]) / upper
                cells.append(f"{np.median(ratio):.2f}" + ("" if goal is None else f" ({goal[place]:.2f})"))
                costs.append(f"{sum(one['methods'][title]['seconds'] for one in found) / len(upper):.2g}")
            lines.append(
                f"| {name} | {norm} | {100 * found[0]['sparsity']:.1f} % | {len(upper)} | {' | '.join(cells)} "
                f"| {np.mean(ratio >= 0.99):.0%} | {' | '.join(costs)} |"
            )
    return "\n".join([*lines, "", "; ".join(sorted(machines)), ""])


def main() -> None:
    """Compute what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=harness.CACHE / "certified")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--networks", nargs="+", default=list(SECONDS))
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    split = data.load("mnist-5k")
    for name in args.networks:
        networks(name, split, args.out)
    kinds = [(name, level, norm) for name in reversed(args.networks) for norm in ("linf", "l2") for level in ROUNDS]
    todo = [(*kind, first, args.out) for first in range(0, args.samples, BLOCK) for kind in kinds]
    harness.side_by_side(result, [one for one in todo if not path_of(*one).exists()], args.workers)
    write_text(harness.HERE / "CERTIFIED.md", table(args.out, DRAFT, args.samples))


if __name__ == "__main__":
    main()
