"""What certificates of every level cost: 15 levels, both norms, two processes; then a sample's cost by how many come at once, and memory.

`python benchmarks/levels.py [--networks lenet-300-100 lenet-5] [--out FOLDER]` writes a section of RESULTS.md for each network. The
levels are those of progressive pruning by a third of what is left on mnist-5k, trained once.
"""

from __future__ import annotations

import argparse
import resource
import time
from multiprocessing import get_context
from pathlib import Path

import harness
import torch
from torch import nn

from isogrid import data, models
from isogrid.certify import make
from isogrid.core.files import load_tensors, save_tensors
from isogrid.data import Split
from isogrid.sparsity import PRUNERS
from isogrid.training import FitConfig, fit

LEVELS, NORMS, COUNTS = 15, ("linf", "l2"), (10, 100, 1000)
ASKED = {"lenet-300-100": ({"crown-ibp": 1000, "crown": 100}, 180), "lenet-5": ({"crown-ibp": 1000, "crown": 20}, 900)}
"""Samples by method, and within how many seconds."""


def path_of(name: str, level: int, out: Path) -> Path:
    """Where a level's weights are kept."""
    return out / f"levels-{name}-{level}.safetensors"


def train(name: str, split: Split, out: Path) -> None:
    """All levels of a network, once."""
    network, masks, state = models.build(name, split.train.shape, split.train.classes, 0), None, {}
    for level in range(LEVELS):
        if path_of(name, LEVELS - 1, out).exists():
            return
        pruner = PRUNERS.make({"name": "progressive", "rate": 1 / 3}) if level else None
        config = FitConfig(epochs=5 if level else 15, batch_size=128, schedule="one-cycle")
        purpose = ("level", level)
        log = fit(network, split.train.x, split.train.y, config, seed=0, purpose=purpose, pruner=pruner, masks=masks, state=state)
        masks, state = log.masks, log.state
        save_tensors(path_of(name, level, out), network.state_dict())


def network_of(name: str, level: int, split: Split, out: Path) -> nn.Module:
    """A level as it was trained."""
    network = models.build(name, split.train.shape, split.train.classes, 0)
    network.load_state_dict(load_tensors(path_of(name, level, out)))
    return network.eval()


def certify(name: str, level: int, norm: str, counts: dict[str, int], out: Path) -> None:
    """The certificates of one level in one norm, box."""
    torch.set_num_threads(1)
    split = data.load("mnist-5k")
    network = network_of(name, level, split, out)
    for method, count in counts.items():
        make({"name": method, "norm": norm})(network, split.test.x[:count], split.test.y[:count])


def alone(name: str, level: int, norm: str, count: int, out: Path) -> tuple[float, float]:
    """(milliseconds of CPU time a sample, peak memory beyond what was there before in MiB) of CROWN-IBP on `count` samples at once."""
    torch.set_num_threads(1)
    split = data.load("mnist-5k")
    network, x, y = network_of(name, level, split, out), split.test.x[:count], split.test.y[:count]
    method = make({"name": "crown-ibp", "norm": norm})
    method(network, x[:2], y[:2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = harness.cpu_seconds(lambda: method(network, x, y))
    return 1e3 * spent / count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measure(name: str, out: Path) -> None:
    """Certify all levels of a network, then a sample of two levels by how many come at once; write the section."""
    counts, limit = ASKED[name]
    started = time.perf_counter()
    harness.side_by_side(certify, [(name, level, norm, counts, out) for level in range(LEVELS) for norm in NORMS], 2)
    spent = time.perf_counter() - started
    what = ", ".join(f"{method} {count:,}" for method, count in counts.items())
    lines, costs = [[what, f"{spent:.0f}", str(limit), "yes" if spent <= limit else "no"]], []
    for norm in NORMS:
        for level in (0, 7):
            found = []
            for count in COUNTS:
                with get_context("spawn").Pool(1) as pool:  # a process of its own: its peak is its own
                    found.append(pool.apply(alone, (name, level, norm, count, out)))
            shown = [f"{ms:.1f}, {memory:.0f}" for ms, memory in found]
            costs.append([str(level), norm, *shown, f"{found[-1][0] / found[1][0]:.2f}"])
            print(costs[-1], flush=True)
    body = (
        f"{LEVELS} levels, one seed, {' and '.join(NORMS)}, box, samples by method; wall seconds of two processes, loading and starting "
        f"included. {harness.machine('one thread each')}.\n\n"
        + harness.table(["samples", "seconds", "asked", "met"], lines)
        + "\n\nCROWN-IBP by how many samples come at once: milliseconds of CPU time a sample, peak memory in MiB:\n\n"
        + harness.table(["level", "norm", *map(str, COUNTS), "time, 1,000 / 100"], costs)
    )
    harness.write_section(f"Certificates of every level: {name}", body)
    print(body)


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=harness.CACHE / "levels")
    parser.add_argument("--networks", nargs="+", default=list(ASKED))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    split = data.load("mnist-5k")
    for name in args.networks:
        train(name, split, args.out)
        measure(name, args.out)


if __name__ == "__main__":
    main()
