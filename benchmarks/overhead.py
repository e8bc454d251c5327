"""What pruning and robust training cost over a plain loop: CPU time at batch 128, and nothing else.

    python benchmarks/overhead.py [--pairs 9] [--only enforce|rigl|pgd]

Plain loop: fused SGD with Nesterov momentum, cross-entropy, batches gathered in a shuffled order from one tensor, written out here; images
in channels_last, in which it is fastest. Every row is a ratio to it.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterator

import torch
from harness import Ratio, compare, digits, machine, table, write_section
from torch import Tensor, nn

from isogrid.core.random import Streams
from isogrid.models import build
from isogrid.sparsity import Masks, Progressive, RigL, enforce
from isogrid.training import FitConfig, OptimizerConfig, fit
from isogrid.training.objectives import PGDTraining

BATCH = 128
NETWORKS = {"lenet-300-100": 20, "lenet-5": 2}
"""Passes over STEPS batches a timed call: about a second each."""
STEPS = 15
LR = 0.01
ENFORCE = {"lenet-300-100": 1.10, "lenet-5": 1.05}
RIGL, PGD = 1.10, 1.10
ATTACK_STEPS = 7


def start(name: str) -> nn.Module:
    """The network in its first weights, in train mode."""
    return build(name, (1, 28, 28), 10, seed=0).train().to(memory_format=torch.channels_last)


@functools.cache
def samples() -> tuple[Tensor, Tensor]:
    """STEPS * BATCH training digits."""
    x, y, _, _ = digits()
    return x[: STEPS * BATCH].to(memory_format=torch.channels_last), y[: STEPS * BATCH]


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over them, shuffled."""
    x, y = samples()
    for rows in torch.randperm(len(y)).split(BATCH):
        yield x.index_select(0, rows), y.index_select(0, rows)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Torch's fastest SGD."""
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, nesterov=True, fused=True)


def loop(model: nn.Module, optimizer: torch.optim.Optimizer, passes: int) -> None:
    """The plain loop."""
    for _ in range(passes):
        for x, y in batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def enforced(name: str, pairs: int) -> Ratio:
    """The plain loop inside `enforce`, 90 % of the weights dead, against itself outside."""
    model, passes = start(name), NETWORKS[name]
    optimizer = sgd(model)
    masks = Progressive(rate=0.9).prune(model, Masks.dense(model))

    def ours() -> None:
        with enforce(masks, model, optimizer):
            loop(model, optimizer, passes)

    return compare(ours, lambda: loop(model, optimizer, passes), pairs)


def regrown(name: str, pairs: int, every: int) -> Ratio:
    """`fit` under RigL, from its first scores to its last masks, against the plain loop of as many steps."""
    passes = NETWORKS[name]
    x, y = samples()
    config = FitConfig(epochs=passes, batch_size=BATCH, optimizer=OptimizerConfig(lr=LR))
    model = start(name)
    optimizer = sgd(model)

    def ours() -> None:
        fit(start(name), x, y, config, seed=0, pruner=RigL(sparsity=0.9, every=every))

    return compare(ours, lambda: loop(model, optimizer, passes), pairs)


def adversarial(name: str, pairs: int) -> Ratio:
    """Steps of PGD-7 training, divided by 1 + 7, against as many plain steps."""
    model, passes = start(name), max(1, NETWORKS[name] // (1 + ATTACK_STEPS))
    optimizer, objective = sgd(model), PGDTraining(eps=0.1, steps=ATTACK_STEPS)

    def ours() -> None:
        for _ in range(passes):
            for step, (x, y) in enumerate(batches()):
                optimizer.zero_grad()
                streams = Streams(seed=step, ids=torch.arange(len(y)))
                objective.loss(model, x, y, streams, (0.0, 1.0)).backward()
                optimizer.step()

    return compare(ours, lambda: loop(model, optimizer, (1 + ATTACK_STEPS) * passes), pairs)


PARTS: dict[str, tuple[str, Callable[[str, int], Ratio], Callable[[str], float]]] = {
    "enforce": ("`enforce`, 90 % sparse", enforced, ENFORCE.__getitem__),
    "rigl": ("`fit` under RigL, 90 % sparse, every 20", functools.partial(regrown, every=20), lambda name: RIGL),
    "rigl-100": ("`fit` under RigL, 90 % sparse, every 100 as published", functools.partial(regrown, every=100), lambda name: RIGL),
    "pgd": (f"PGD-{ATTACK_STEPS} training / (1 + {ATTACK_STEPS})", adversarial, lambda name: PGD),
}


def main() -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for part, (title, measure, limit) in PARTS.items():
        for name in NETWORKS if arguments.only in (None, part) else ():
            ratio = measure(name, arguments.pairs)
            met = "yes" if ratio.high <= limit(name) else "no"
            lines.append([name, title, str(ratio), f"{limit(name):.2f}", met, f"{ratio.ours:.2f}, {ratio.theirs:.2f}"])
            print(" | ".join(lines[-1]), flush=True)
    if arguments.only is None:
        about = (
            f"CPU time over that of a plain loop (fused SGD, batch {BATCH}): median of {arguments.pairs} interleaved pairs"
            f" [95 % interval]. {machine()}; load at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
        )
        header = ["network", "what", "ratio", "wanted at most", "met", "seconds"]
        write_section("Overhead of pruning and robust training", f"{about}\n\n{table(header, lines)}")


if __name__ == "__main__":
    main()
