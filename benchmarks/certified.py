"""How tight certificates are: lower / upper ends of the minimal perturbation, per method, on networks of `quick`'s recipe.

Upper ends: DDN (l2) and FMN and minimised APGD-T (l_inf), exact and leaky backward passes, and what branch and bound finds. The first
correct test samples, domain free, one thread. Every result is a file in --out and is not computed again: the script resumes, and
--samples may grow. `python benchmarks/certified.py --out FOLDER [--samples 100] [--networks lenet-300-100 conv]` writes CERTIFIED.md.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import HERE, machine
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


def networks(name: str, split: Split, out: Path) -> dict[float, nn.Module]:
    """{sparsity: network} of the rounds, trained once."""
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
            found[float((weights == 0).double().mean())] = kept.eval()
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


def result(network: nn.Module, x: Tensor, y: Tensor, norm: str, seconds: float) -> dict[str, Any]:
    """Per method its radii and CPU seconds, and the smallest upper ends."""
    upper, methods = attacked(network, x, y, norm), {}
    for config in METHODS:
        name, started = config["name"], time.process_time()
        limits = {"seconds": seconds} if name == "branch-and-bound" else {}
        found = make(config | limits | {"norm": norm, "domain": "free"})(network, x, y, upper=upper)
        upper = torch.minimum(upper, found.upper)
        methods[name] = {"radius": found.radius.tolist(), "seconds": time.process_time() - started}
    return {"upper": upper.tolist(), "methods": methods}


def table(out: Path) -> str:
    """What is there."""
    titles = [config["name"] for config in METHODS]
    lines = [
        "# How tight the certificates are",
        "",
        "Written by certified.py; not edited by hand. Median of lower / upper over the first correct samples of mnist-5k, seed 0, domain",
        "free; in brackets what is asked; CPU seconds a sample. Exact: share of samples whose ends are within 1 %.",
        "",
        "| network | norm | sparsity | samples | " + " | ".join(titles) + " | exact | " + " | ".join(f"{t}, s" for t in titles) + " |",
        "|" + " --- |" * (5 + 2 * len(titles)),
    ]
    places: dict[tuple[str, str], int] = {}
    for path in sorted(out.glob("*.json")):
        found = read_json(path)
        upper = np.array(found["upper"])
        key = (found["network"], found["norm"])
        place = places[key] = places.get(key, -1) + 1
        asked = dict(zip(titles[1:], (row[place] for row in DRAFT[key]), strict=True))
        cells, costs, ratio = [], [], np.zeros(0)
        for name in titles:
            ratio = np.array(found["methods"][name]["radius"]) / upper
            cells.append(f"{np.median(ratio):.2f}" + (f" ({asked[name]:.2f})" if name in asked else ""))
            costs.append(f"{found['methods'][name]['seconds'] / len(upper):.2g}")
        lines.append(
            f"| {key[0]} | {key[1]} | {100 * found['sparsity']:.1f} % | {len(upper)} | {' | '.join(cells)} "
            f"| {np.mean(ratio >= 0.99):.0%} | {' | '.join(costs)} |"
        )
    return "\n".join([*lines, "", machine(), ""])


def main() -> None:
    """Compute what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / ".cache" / "certified")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--networks", nargs="+", default=list(SECONDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    split = data.load("mnist-5k")
    for name in args.networks:
        for sparsity, network in networks(name, split, args.out).items():
            x, y = correct(network, split.test, args.samples)
            for norm in ("linf", "l2"):
                path = args.out / f"{name}-{norm}-{math.floor(1000 * sparsity):03d}.json"
                if path.exists() and len(read_json(path)["upper"]) >= args.samples:
                    continue
                found = result(network, x, y, norm, SECONDS[name])
                write_json(path, {"network": name, "norm": norm, "sparsity": sparsity} | found)
                print(path.name, flush=True)
    write_text(HERE / "CERTIFIED.md", table(args.out))


if __name__ == "__main__":
    main()
