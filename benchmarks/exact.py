"""What complete search decides of sparse networks, and in which time: `quick`'s levels, seed 0, box.

`python benchmarks/exact.py FOLDER_OF_QUICK [--workers 2]` writes its section of RESULTS.md. l_inf: every sample is proved robust at 0.1 or
broken, samples that APGD-T breaks are not searched. l2: the smallest distance, from DDN's on, within 1 %. Processes are started before the
clock is.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import harness
import numpy as np
import torch

import isogrid
from isogrid import attacks, data
from isogrid.certify import make

EPS, CLOSE, SECONDS = 0.1, 0.99, 60.0
BLOCK = {"linf": 50, "l2": 5}
ASKED = (
    ("linf", 12, 1000, "all in 10 s"),
    ("linf", 10, 1000, "all in 120 s"),
    ("linf", 7, 100, "all"),
    ("l2", 12, 100, "all in 180 s"),
    ("l2", 10, 100, "as many as 1,800 s decide"),
)
"""Norm, level, samples, what is asked."""
BACKWARD = ("exact", "leaky")


def decide(folder: Path, norm: str, level: int, first: int, count: int) -> tuple[float, list[float], list[float], float, float]:
    """(sparsity, lower and upper ends of a block's samples, CPU seconds of attacks and search); at EPS (1, inf): robust, (0, 0): broken."""
    torch.set_num_threads(1)
    network, test = isogrid.open_study(folder).model(seed=0, level=level, model="lenet-300-100"), data.load("mnist-5k").test
    x, y = test.x[first : first + count], test.y[first : first + count]
    weights = torch.cat([w.detach().flatten() for w in network.parameters() if w.dim() > 1])
    started = time.process_time()
    search = make({"name": "branch-and-bound", "norm": norm, "seconds": SECONDS})
    if norm == "linf":
        config = {"name": "apgd-t", "eps": EPS, "steps": 20, "targets": 5, "backward": "leaky"}
        points = attacks.make(config)(network, x, y).x_adv
        attacked = time.process_time()
        said = search.verify(network, x, y, EPS, x_adv=points)
        lower, upper = said.certified.double(), torch.where(said.broken, 0.0, torch.inf).double()
    else:
        found = [attacks.make({"name": "ddn", "converge": True, "backward": backward})(network, x, y).distance for backward in BACKWARD]
        upper, attacked = torch.stack(found).amin(0).double(), time.process_time()
        said = search(network, x, y, upper=upper)
        lower, upper = said.radius, torch.minimum(upper, said.upper)
    spent = attacked - started, time.process_time() - attacked
    return float((weights == 0).double().mean()), lower.tolist(), upper.tolist(), *spent


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    lines = []
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(decide, *zip(*[(args.folder, "linf", 12, 0, 1)] * args.workers, strict=True)):
            pass
        for norm, level, samples, asked in ASKED:
            started = time.perf_counter()
            size = BLOCK[norm]
            blocks = [pool.submit(decide, args.folder, norm, level, first, size) for first in range(0, samples, size)]
            found = [block.result() for block in blocks]
            wall = time.perf_counter() - started
            lower, upper = (np.concatenate([one[place] for one in found]) for place in (1, 2))
            decided = (lower == 1) | (upper == 0) if norm == "linf" else lower >= CLOSE * upper
            truth = f"robust at {EPS}: {lower.sum():.0f}" if norm == "linf" else f"mean {upper[upper > 0].mean():.3f}"
            cells = [norm, f"{100 * found[0][0]:.1f} %", str(samples), str(int(decided.sum())), truth]
            lines.append([*cells, *(f"{sum(one[place] for one in found):.0f}" for place in (3, 4)), f"{wall:.0f}", asked])
            print(lines[-1], flush=True)
    body = (
        f"LeNet-300-100 of `quick`, seed 0, mnist-5k, box; CPU seconds of the attacks that come first and of the search, wall seconds of "
        f"{args.workers} processes; at most {SECONDS:g} s a sample. {harness.machine('one thread each')}.\n\n"
        + harness.table(["norm", "sparsity", "samples", "decided", "truth", "attacks, s", "search, s", "wall s", "asked"], lines)
    )
    harness.write_section("Exact robustness", body)
    print(body)


if __name__ == "__main__":
    main()
